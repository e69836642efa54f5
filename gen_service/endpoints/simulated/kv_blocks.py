"""The KV cache of a simulated engine: blocks held, growth by steps, and prompts shared between siblings."""

from __future__ import annotations

from collections import OrderedDict


class KvBlocks:
    """Counts blocks; knows nothing of time or of who waits.

    A sequence of t tokens holds ceil(t / size) blocks. The full blocks of a prompt are shared by all sequences with
    its key, except for the prompt's last token, which is always computed (as in vLLM). When the last of them leaves,
    the prompt stays cached in free blocks; the least recently used prompts give way when there are fewer free blocks
    than cached ones. (vLLM evicts single blocks in the order in which they became free.)

    A decoding sequence grows by a token a step, so it takes a block once in `size` steps, always at the same step
    modulo `size`: counting the sequences by that remainder makes growth over any number of steps O(size).

    Invariant: `used` never exceeds `total`, as long as nothing is held that does not fit and no step entered.

    Attributes:
        used: blocks held by sequences.
        growing: sequences that grow.
    """

    def __init__(self, total: int, size: int) -> None:
        self.total = total
        self.size = size
        self.used = 0
        self.growing = 0
        self._slots = [0] * size
        # Prompts of running sequences: how many share each, and how many blocks.
        self._shared: dict[str, tuple[int, int]] = {}
        self._cached: OrderedDict[str, int] = OrderedDict()
        self._cached_blocks = 0

    @property
    def free(self) -> int:
        """Blocks that no sequence holds."""
        return self.total - self.used

    def of(self, tokens: int) -> int:
        """Blocks of so many tokens."""
        return -(-tokens // self.size)

    def needed(self, key: str, prompt_tokens: int, tokens: int) -> int:
        """Free blocks that a sequence of so many tokens, its prompt among them, would take."""
        return self.of(tokens) - min(self._shared.get(key, (0, 0))[1], (prompt_tokens - 1) // self.size)

    def hold(self, key: str, prompt_tokens: int, tokens: int) -> int:
        """Give a sequence its blocks.

        Returns:
            Tokens of its prompt that are in the cache already and need no computing.
        """
        prompt_blocks = (prompt_tokens - 1) // self.size
        if key in self._shared:
            count, blocks = self._shared[key]
            self._shared[key] = count + 1, blocks
            self.used += self.of(tokens) - min(blocks, prompt_blocks)
            return min(blocks, prompt_blocks) * self.size
        hits = min(self._forget(key), prompt_blocks) * self.size
        self._shared[key] = 1, prompt_blocks
        self.used += self.of(tokens)
        self._evict()
        return hits

    def release(self, key: str, prompt_tokens: int, tokens: int) -> None:
        """Take back the blocks of a sequence that has grown to so many tokens."""
        count, blocks = self._shared[key]
        self.used -= self.of(tokens) - min(blocks, (prompt_tokens - 1) // self.size)
        if count > 1:
            self._shared[key] = count - 1, blocks
            return
        del self._shared[key]
        self.used -= blocks
        if blocks:
            self._cached[key] = blocks
            self._cached_blocks += blocks

    def grow(self, tokens: int, step: int) -> int:
        """A sequence of so many tokens, the last not yet in the cache, grows from `step` on.

        Returns:
            Its slot: the steps, modulo the block size, at which it takes a block.
        """
        slot = (step + 1 - tokens) % self.size
        self._slots[slot] += 1
        self.growing += 1
        return slot

    def stop_growing(self, slot: int) -> None:
        """The sequence of this slot grows no more."""
        self._slots[slot] -= 1
        self.growing -= 1

    def taken_at(self, step: int) -> int:
        """Blocks that the growing sequences take when `step` begins."""
        return self._slots[step % self.size]

    def grown(self, step: int, steps: int) -> int:
        """Blocks taken when the `steps` steps after `step` begin."""
        rounds, rest = divmod(steps, self.size)
        slots, size = self._slots, self.size
        return rounds * self.growing + sum([slots[(step + more) % size] for more in range(1, rest + 1)])

    def enter(self, step: int, steps: int) -> None:
        """The `steps` steps after `step` began."""
        self.used += self.grown(step, steps)
        self._evict()

    def steps_that_fit(self, step: int, limit: int) -> int:
        """How many steps, from `step` on which has its blocks already, find the blocks they take; `limit` at most."""
        free = self.free
        if not self.growing or self.growing * (limit // self.size + 1) <= free:
            return limit
        rounds, free = divmod(free, self.growing)
        steps = rounds * self.size + 1
        while steps < limit and (taken := self._slots[(step + steps) % self.size]) <= free:
            free -= taken
            steps += 1
        return min(steps, limit)

    def _forget(self, key: str) -> int:
        blocks = self._cached.pop(key, 0)
        self._cached_blocks -= blocks
        return blocks

    def _evict(self) -> None:
        while self._cached_blocks > self.free:
            _, blocks = self._cached.popitem(last=False)
            self._cached_blocks -= blocks
