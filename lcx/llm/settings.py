"""Settings of every step that calls text generators: where they are, how fast, and how much may be spent.

None of them changes what a step makes, so none enters its fingerprint: a job goes on with another server, another
speed or a larger budget. Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from pydantic import model_validator

from lcx.settings import DEFAULT_SOURCE, VOLATILE, Settings, setting, wrong_key_source

if TYPE_CHECKING:
    from lcx.plugins import Plugins


EVALUATED = ("model", "against")
"""Settings that name a model by its path or id too, and not a text generator alone."""


class Serving(Settings):
    """How calls to servers (`openai:MODEL`) are made."""

    base_url: str | None = setting(
        None,
        description="where openai:MODEL is served; OPENAI_BASE_URL or the hosted service, where none is given",
        json_schema_extra=VOLATILE,
    )
    api_key_env: str = setting(
        DEFAULT_SOURCE,
        description="variable that holds the key; empty: none is sent",
        json_schema_extra=VOLATILE,
    )
    api_key_file: str | None = setting(
        None, description="file that holds the key, in place of a variable", json_schema_extra=VOLATILE
    )
    concurrency: int = setting(64, ge=1, description="calls in flight at a time", json_schema_extra=VOLATILE)
    requests_per_minute: float | None = setting(
        None, gt=0, description="most calls begun in a minute", json_schema_extra=VOLATILE
    )
    tokens_per_minute: float | None = setting(
        None, gt=0, description="most tokens sent and received in a minute", json_schema_extra=VOLATILE
    )
    tries: int = setting(
        5, ge=1, description="how often a call is sent that fails on its way", json_schema_extra=VOLATILE
    )
    timeout: float = setting(
        600.0, gt=0, description="seconds that a call may take", json_schema_extra=VOLATILE
    )
    max_calls: int | None = setting(
        None,
        ge=0,
        description="calls after which the step stops; the same command goes on",
        json_schema_extra=VOLATILE,
    )
    max_tokens: int | None = setting(
        None, ge=0, description="tokens after which the step stops", json_schema_extra=VOLATILE
    )
    max_cost: float | None = setting(
        None,
        ge=0,
        description="cost, in the currency of `prices`, after which the step stops",
        json_schema_extra=VOLATILE,
    )
    prices: dict[str, tuple[float, float]] | str = setting(
        {},
        description="cost of a million prompt and completion tokens by model: {MODEL: [2.5, 10]}, or a YAML file of it",
        json_schema_extra=VOLATILE,
    )

    def check_names(self, plugins: Plugins) -> None:
        """The backends of the roles: every setting ROLE that has ROLE_options beside it, as `StepWork.spec` has it."""
        super().check_names(plugins)
        registries = {"retriever": plugins.retrievers}
        for name, spec in self:
            if (
                name not in EVALUATED
                and f"{name}_options" in type(self).model_fields
                and isinstance(spec, str)
                and spec
            ):
                registries.get(name, plugins.llms).get(spec.partition(":")[0])

    @model_validator(mode="after")
    def _urls(self) -> Self:
        """Settings are written down: a URL with a password must not get that far."""
        options = [value for name, value in self if name.endswith("options") and isinstance(value, Mapping)]
        for one in ({key: getattr(self, key) for key in ("api_key_env", "api_key_file")}, *options):
            for key in ("api_key_env", "api_key_file"):
                if one.get(key) and (wrong := wrong_key_source(key, one[key])):
                    raise ValueError(f"{key} {wrong}")
        for url in filter(None, (self.base_url, *(one.get("base_url") for one in options))):
            from lcx.llm.openai import wrong_url  # not above: settings are read by commands that call nobody

            wrong, hint = wrong_url(str(url))
            if wrong:
                raise ValueError(f"{wrong}. {hint}")
        return self


THOUGHTS = (
    "thoughts of a model in answers: strip leaves them out of what is compared, judged and trained on (the whole reply "
    "stays beside it), keep trains on them; judges never see them"
)
"""What the setting `thoughts` of steps with candidates says of itself."""


class Calling(Serving):
    """How calls are made. Endpoints take all of it, other backends what concerns them."""

    gpus: int = setting(
        1, ge=1, description="processes of a local: model, a GPU each", json_schema_extra=VOLATILE
    )

    @classmethod
    def last(cls) -> frozenset[str]:
        """How models are called is listed behind what a step makes."""
        return frozenset(Calling.model_fields)
