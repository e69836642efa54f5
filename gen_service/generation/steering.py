"""Which samples are still needed, told from the verdicts so far. Pure: no task, no clock, no disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from gen_service.errors import SpecError
from gen_service.records import Outcome, Sample, Skipped, SkipReason
from gen_service.settings import SteeringSettings


@dataclass(frozen=True, slots=True)
class Decision:
    """What follows from one sample that was sent or has ended.

    Attributes:
        skip: samples that were not sent and are not to be; each is named by one decision only.
        cut: samples in flight that are not needed: what came of them is kept. One of which nothing came is given to
            `Steering.withdrawn`.
        end: why nothing more is sent in the whole job, when this decided it; else None.
    """

    skip: tuple[Skipped, ...] = ()
    cut: tuple[str, ...] = ()
    end: SkipReason | None = None


NOTHING = Decision()


@dataclass(slots=True)
class _Open:
    """One prompt with samples that are not sent or in flight."""

    unsent: dict[str, Sample]
    ended: int
    correct: int
    in_flight: dict[str, Sample] = field(default_factory=dict)
    reason: SkipReason | None = None


class Steering:
    """Decides when a prompt, and when the job, has enough.

    The whole rule. A prompt has enough

    - `solved`: at `correct` right answers;
    - `given_up`: at `give_up_after` samples that ended, whatever they ended in, none of them right;
    - `ungradable`: with `drop_ungradable`, at the first verdict `ungradable`, which is about the gold alone.

    Its samples that were not sent are skipped then, those in flight are cut. The job has enough

    - `target_reached`: at `verified` right answers; what is in flight is cut, since nobody asked for more;
    - `sample_budget`: when `sample_budget` samples were sent, and `token_budget`: when completions came to that many
      tokens; what is in flight ends by itself, since most of its price is paid and it may still be right.

    What a prompt decided by itself comes before what the job did. The sample budget is never passed but by what
    earlier runs sent; the token budget is passed by no more than what is in flight: samples are held back while those
    in flight, at the mean length so far, are expected to use up the rest (`may_send`).

    How many samples of one prompt may be in flight, `at_once`: with `correct` right answers wanted, as many as are
    missing, or as many as went wrong so far if that is more: for one right answer 1, 1, 2, 4, ... So what is cut when
    the last right answer comes is never more than what had ended wrong (the doubling of exponential search), and a
    prompt of n samples takes about log2 n answers' time instead of one. All at once would save nothing. While no
    answer is right, no more than `give_up_after` are sent. Otherwise there is no limit.

    Invariants: each sample given to `open` with no reason returned is sent, or skipped by exactly one decision; none
    of a prompt, or of the job, is to be sent after its reason; a prompt with samples left may always have one in
    flight. Decisions follow from counts alone, so a run that goes on from them decides as one run would have.
    Memory is that of the prompts with samples unsent or in flight.

    Args:
        settings: the targets and budgets.
        samples: of each prompt, the most.

    Attributes:
        over: why the whole job has enough, or None.

    Raises:
        SpecError: more right answers are wanted of a prompt than it has samples.
    """

    def __init__(self, settings: SteeringSettings, samples: int) -> None:
        if settings.correct is not None and settings.correct > samples:
            raise SpecError("steering.correct", settings.correct, f"at most {samples}, the samples of each prompt")
        self._settings = settings
        self._prompts: dict[str, _Open] = {}
        self._in_flight = 0
        self._correct = self._sent = self._ended = self._tokens = 0
        self.over: SkipReason | None = None

    def begin(self, correct: int, samples: int, tokens: int) -> SkipReason | None:
        """Take in what earlier runs of the job did, before anything else.

        Args:
            correct: their right answers.
            samples: their rows.
            tokens: the completion tokens of those.

        Returns:
            why nothing is to be sent at all, or None.
        """
        self._correct, self._sent, self._ended, self._tokens = correct, samples, samples, tokens
        self.over = self._job_reason()
        return self.over

    def open(
        self, prompt_id: str, left: Sequence[Sample], done: int, correct: int, *, ungradable: bool = False
    ) -> SkipReason | None:
        """Take in a prompt.

        Args:
            left: its samples that are not done.
            done: how many of its samples ended in earlier runs; skipped ones are not among them.
            correct: how many of those are right.
            ungradable: whether one of those is `ungradable`.

        Returns:
            why none of `left` is needed: all are to be skipped, and the prompt is not kept; or None.
        """
        prompt = _Open({sample.sample_id: sample for sample in left}, done, correct)
        reason = self._prompt_reason(prompt, ungradable) or self.over
        if reason is None and left:
            self._prompts[prompt_id] = prompt
        return reason

    @property
    def may_send(self) -> bool:
        """Whether any sample may be sent now; may change with each that ends. True when nothing is in flight, until
        the job is over."""
        budget = self._settings.token_budget
        if self.over is not None or budget is None or not self._ended:
            return self.over is None
        return self._tokens + self._in_flight * self._tokens / self._ended < budget

    def at_once(self, prompt_id: str) -> int:
        """How many samples of an open prompt may be in flight together now, those in flight counted. It changes only
        when one of the prompt ends, or the job is over."""
        prompt = self._prompts[prompt_id]
        if prompt.reason is not None or self.over is not None:
            return 0
        most = len(prompt.unsent) + len(prompt.in_flight)
        if self._settings.correct is not None:
            most = min(most, max(self._settings.correct - prompt.correct, prompt.ended - prompt.correct))
        if self._settings.give_up_after is not None and not prompt.correct:
            most = min(most, self._settings.give_up_after - prompt.ended)
        return most

    def rank(self, prompt_id: str) -> int:
        """Which prompts go first, the lowest: under a budget 0 for one without a right answer and 1 for the others;
        else 0, also of a prompt that is not open. It changes only when one of the prompt ends."""
        has_budget = self._settings.sample_budget is not None or self._settings.token_budget is not None
        prompt = self._prompts.get(prompt_id)
        return int(has_budget and prompt is not None and prompt.correct > 0)

    def sent(self, sample: Sample) -> Decision:
        """A sample of an open prompt goes in flight: `may_send` is true and `at_once` has room."""
        prompt = self._prompts[sample.prompt.prompt_id]
        prompt.in_flight[sample.sample_id] = prompt.unsent.pop(sample.sample_id)
        self._in_flight += 1
        self._sent += 1
        return self._decided(())

    def ended(self, sample: Sample, outcome: Outcome, tokens: int) -> Decision:
        """A sample in flight has its verdict, and its completion has so many tokens."""
        prompt = self._landed(sample)
        prompt.ended += 1
        prompt.correct += outcome == "correct"
        self._ended += 1
        self._correct += outcome == "correct"
        self._tokens += tokens
        cut: tuple[str, ...] = ()
        skipped: tuple[Skipped, ...] = ()
        if prompt.reason is None:
            prompt.reason = self._prompt_reason(prompt, outcome == "ungradable")
            if prompt.reason is not None:
                skipped, cut = tuple(_skip_all(prompt, prompt.reason)), tuple(prompt.in_flight)
        self._forget_if_idle(sample.prompt.prompt_id)
        return self._decided(skipped, cut)

    def is_needed(self, sample: Sample) -> bool:
        """Whether a sample in flight is still to be asked for: False once a decision has cut it."""
        return self._prompts[sample.prompt.prompt_id].reason is None

    def withdrawn(self, sample: Sample) -> Skipped | None:
        """A sample in flight came to nothing and has no row: it was cut, or interrupted by a stop, before its first
        token. It does not count as sent.

        Returns:
            what to keep of one that was cut; None for one that the next run makes.
        """
        prompt = self._landed(sample)
        self._sent -= 1
        self._forget_if_idle(sample.prompt.prompt_id)
        return None if prompt.reason is None else _skipped(sample, prompt.reason)

    def __len__(self) -> int:
        """Prompts with samples unsent or in flight."""
        return len(self._prompts)

    def _decided(self, skipped: tuple[Skipped, ...], cut: tuple[str, ...] = ()) -> Decision:
        """With what becomes of all other prompts if the job is over by now."""
        if self.over is None and (reason := self._job_reason()) is not None:
            self.over = reason
            skipped += tuple(one for prompt in self._prompts.values() for one in _skip_all(prompt, reason))
            if reason == "target_reached":
                for prompt in (prompt for prompt in self._prompts.values() if prompt.reason is None):
                    prompt.reason = reason
                    cut += tuple(prompt.in_flight)
            for prompt_id in list(self._prompts):
                self._forget_if_idle(prompt_id)
            return Decision(skipped, cut, reason)
        return Decision(skipped, cut) if skipped or cut else NOTHING

    def _prompt_reason(self, prompt: _Open, ungradable: bool) -> SkipReason | None:
        settings = self._settings
        if ungradable and settings.drop_ungradable:
            return "ungradable"
        if settings.correct is not None and prompt.correct >= settings.correct:
            return "solved"
        if settings.give_up_after is not None and not prompt.correct and prompt.ended >= settings.give_up_after:
            return "given_up"
        return None

    def _job_reason(self) -> SkipReason | None:
        settings = self._settings
        if settings.verified is not None and self._correct >= settings.verified:
            return "target_reached"
        if settings.sample_budget is not None and self._sent >= settings.sample_budget:
            return "sample_budget"
        if settings.token_budget is not None and self._tokens >= settings.token_budget:
            return "token_budget"
        return None

    def _landed(self, sample: Sample) -> _Open:
        prompt = self._prompts[sample.prompt.prompt_id]
        del prompt.in_flight[sample.sample_id]
        self._in_flight -= 1
        return prompt

    def _forget_if_idle(self, prompt_id: str) -> None:
        prompt = self._prompts[prompt_id]
        if not prompt.unsent and not prompt.in_flight:
            del self._prompts[prompt_id]


def fingerprint(settings: SteeringSettings) -> str:
    """A hash of what was steered for, "" for nothing: samples that were skipped under it are needed no more under it,
    and may be under another."""
    if not settings.is_on:
        return ""
    text = json.dumps(settings.model_dump(mode="json"), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _skip_all(prompt: _Open, reason: SkipReason) -> Iterator[Skipped]:
    for sample in prompt.unsent.values():
        yield _skipped(sample, reason)
    prompt.unsent.clear()


def _skipped(sample: Sample, reason: SkipReason) -> Skipped:
    return Skipped(sample.sample_id, sample.prompt.prompt_id, sample.index, reason)
