"""What a tenant may have at a time. Pure: usage and limits in, a refusal out."""

from __future__ import annotations

from gen_service.errors import TooManyRequests
from gen_service.service_settings import QuotaSettings
from gen_service.store.rows import TenantRow, Usage

# Jobs end at times nobody knows; this is often enough to ask and seldom enough not to matter.
_COME_AGAIN_S = 30.0


def effective_quotas(quotas: QuotaSettings, tenant: TenantRow) -> QuotaSettings:
    """The tenant's own quotas over the service's."""
    return QuotaSettings.model_validate({**quotas.model_dump(), **tenant.quotas})


def check_job(usage: Usage, quotas: QuotaSettings, prompts: int) -> None:
    """Whether one more job of `prompts` prompts fits.

    Raises:
        TooManyRequests: it does not; without a time to come again where it never will.
    """
    if quotas.active_jobs is not None and usage.active_jobs >= quotas.active_jobs:
        words = f"{usage.active_jobs} jobs have not ended, and the quota active_jobs is {quotas.active_jobs}"
        raise _refusal(f"{words}: come again when one has", comes_again=quotas.active_jobs > 0)
    if quotas.queued_prompts is not None and usage.queued_prompts + prompts > quotas.queued_prompts:
        words = f"{prompts} prompts beside {usage.queued_prompts} of jobs that have not ended are more than the quota"
        fits_alone = prompts <= quotas.queued_prompts
        advice = "come again when one has ended" if fits_alone else "send fewer in a job"
        raise _refusal(f"{words} queued_prompts, {quotas.queued_prompts}: {advice}", comes_again=fits_alone)


def check_file(usage: Usage, quotas: QuotaSettings, size: int) -> None:
    """Whether `size` more bytes fit.

    Raises:
        TooManyRequests: they do not; without a time to come again, since only deleting a file helps.
    """
    if quotas.stored_bytes is not None and usage.stored_bytes + size > quotas.stored_bytes:
        words = f"{size} bytes beside {usage.stored_bytes} stored are more than the quota stored_bytes"
        raise _refusal(f"{words}, {quotas.stored_bytes}: delete files that are not needed", comes_again=False)


def _refusal(words: str, *, comes_again: bool) -> TooManyRequests:
    return TooManyRequests(words, code="quota_exceeded", retry_after_s=_COME_AGAIN_S if comes_again else None)
