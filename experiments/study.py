"""A study is one declaration, and one runner carries it out.

    STUDY = Study(
        "transition.scaling",
        fields={"num_steps": count(200, "steps of gradient descent"), ...},
        variants=({"full": {}, "smoke": {"num_steps": 5}},),
        cases=designs,        # setup -> {name: arguments}: a stage each, resumable
        measure=measured,     # setup, *arguments -> labelled arrays
        values=radii,         # setup, {name: arrays} -> what results.json keeps
        report=report,        # config, values -> figures, tables, findings
    )
    get_config = STUDY.config

A study of networks says which finished runs it ``needs``, or what it ``trains``. The
runner checks all fields and inputs before anything is written, resumes what was
interrupted, and writes ``report.md``, figures and ``results.json``. As reports are made
from values alone, ``advjax redraw`` makes them anew without computing.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import xarray as xr
from ml_collections import ConfigDict, FrozenConfigDict, config_dict

from experiments import arrays, checks, writing
from experiments.fields import Field, Fields, fill
from experiments.inputs import Input, taken
from experiments.training import parameters, testing
from experiments.training.parts import Training
from experiments.training.trainer import train_networks
from experiments.workdir import Workdir
from experiments.writing import Report

Config = FrozenConfigDict
Change = Mapping[str, Any] | Callable[[ConfigDict], None]
"""Values of fields, or a function that sets them."""
Trains = Callable[[Workdir, str], xr.Dataset]


class Setup(NamedTuple):
    """What a study measures with.

    Attributes:
        config: the configuration.
        inputs: what it needs, by field.
        trained: curves of what it trained, by part, as ``trainer.train_networks``.
        path: the work directory.
        found: what the cases before have measured, by name.
    """

    config: Config
    inputs: Mapping[str, Any]
    trained: Mapping[str, xr.Dataset]
    path: Path
    found: Mapping[str, xr.Dataset] = MappingProxyType({})

    def networks(self, part: str, name: str = "last") -> list[tuple[Any, Any]]:
        """Parameters and batch statistics of the networks of a part, one by one."""
        return testing.released(self.path, part, name)


def _in_one_dataset(setup: Setup, found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    del setup
    first, *others = found.values()
    return arrays.stacked(found, "case") if others else first


@dataclasses.dataclass(frozen=True)
class Study:
    """A study.

    Attributes:
        name: folder and module, such as "transition.scaling".
        fields: the fields of its configuration.
        report: ``(config, values) -> Report``.
        variants: groups of words, each with what it changes; the first word of a group
            is its default. Groups are applied in order.
        needs: finished runs, or files, that it starts from, by field.
        check: raises ConfigError for fields that do not go together, ``(config,
            inputs)``.
        trains: ``(config, inputs) -> {part: training}``, one after the other; in place
            of a training also a function of work directory and part, for what is not
            trained as networks are, which returns what it followed.
        cases: ``setup -> {name: arguments}`` of what is measured, a stage each; by
            default one without arguments.
        measure: ``(setup, *arguments) -> dataset``, of one case; None for a study that
            only trains, or reads.
        values: ``(setup, {name: dataset}) -> dataset``, what reports and readers of the
            results need; by default the dataset, or all stacked along "case".
    """

    name: str
    fields: Fields
    report: Callable[[Config, xr.Dataset], Report]
    _: dataclasses.KW_ONLY
    variants: tuple[Mapping[str, Change], ...] = ()
    needs: Mapping[str, Input] = dataclasses.field(default_factory=dict)
    check: Callable[[Config, Mapping[str, Any]], None] = lambda _config, _inputs: None
    trains: Callable[[Config, Mapping[str, Any]], Mapping[str, Training | Trains]] = (
        lambda _config, _inputs: {}
    )
    cases: Callable[[Setup], Mapping[str, tuple]] = lambda _setup: {"all": ()}
    measure: Callable[..., xr.Dataset] | None = None
    values: Callable[[Setup, Mapping[str, xr.Dataset]], xr.Dataset] = _in_one_dataset

    def all_fields(self) -> dict[str, Field]:
        """Its own fields, and those for what it needs."""
        fields: dict[str, Field] = {}
        for name, kind in self.needs.items():
            fields |= kind.fields(name)
        return fields | dict(self.fields)

    def machine_fields(self) -> frozenset[str]:
        """Fields that say where and how a run computes, and not what."""
        own = {name for name, field in self.fields.items() if field.is_machine}
        return frozenset(own | {*self.needs})

    def config(self, variant: str | None = "") -> ConfigDict:
        """The configuration of variants, such as "mnist,smoke".

        Raises:
            ConfigError: for an unknown variant, or two of one group.
        """
        words = checks.variants(variant, [w for group in self.variants for w in group])
        chosen = checks.one_each(words, [tuple(group) for group in self.variants])
        config = ConfigDict({"experiment": self.name})
        for name, field in self.all_fields().items():
            is_missing = field.default is None
            config[name] = (
                config_dict.placeholder(float) if is_missing else field.default
            )
        for word, group in zip(chosen, self.variants, strict=True):
            change = group[word]
            if callable(change):
                change(config)
            else:
                config.update(change)
        return config.lock()

    def resolved(self, config: ConfigDict) -> tuple[Config, dict[str, Any]]:
        """The configuration with the digests of what it needs, and that, all checked.

        Raises:
            ConfigError: for a field that is wrong, or a run that is another one.
        """
        config = ConfigDict(config.to_dict())
        fields = self.all_fields()
        checks.known_fields([*config.keys()], [*fields, "experiment"])
        for name, field in fields.items():
            field.check(name, config[name])
        found = {name: taken(name, kind, config) for name, kind in self.needs.items()}
        for name, field in fields.items():
            if field.filled:
                fill(config, name, field.filled(config))
        frozen = FrozenConfigDict(config)
        self.check(frozen, found)
        return frozen, found

    def carried_out(
        self, config: Config, inputs: Mapping[str, Any], workdir: Workdir
    ) -> dict[str, Any]:
        """Trains, measures and reports; returns what ``Workdir.finish`` takes.

        Raises:
            Exception: what training and measuring raise.
        """
        trained = {}
        for part, training in self.trains(config, inputs).items():
            trained[part] = _trained(training, workdir, part)
        setup = Setup(config, inputs, trained, workdir.path)
        found = self._measured(setup, workdir)
        values = self.values(setup, found)
        return reported(self, config, values, workdir)

    def _measured(self, setup: Setup, workdir: Workdir) -> dict[str, xr.Dataset]:
        """What was measured, by case; each in a stage."""
        measure = self.measure
        if measure is None:
            return {}
        found: dict[str, xr.Dataset] = {}

        def packed(*arguments: Any) -> dict[str, Any]:
            return arrays.packed(measure(setup._replace(found=found), *arguments))

        for name, arguments in self.cases(setup).items():
            found[name] = arrays.unpacked(workdir.stage(name, packed, *arguments))
        return found


def reported(
    study: Study, config: Config, values: xr.Dataset, workdir: Workdir
) -> dict[str, Any]:
    """Writes figures and report, and returns the results."""
    report = study.report(config, values)
    for drawn in report.figures:
        if drawn.figure is not None:
            workdir.save_figure(drawn.figure, drawn.name)
    workdir.write_text("report.md", writing.markdown(report))
    return {**writing.results(report), **arrays.plain(values)}


def _trained(training: Training | Trains, workdir: Workdir, part: str) -> xr.Dataset:
    if isinstance(training, Training):
        return train_networks(_started(training, workdir), workdir, part)
    return training(workdir, part)


def _started(training: Training, workdir: Workdir) -> Training:
    """With the networks of an earlier part where it starts from those."""
    if not isinstance(training.start, str):
        return training
    file = parameters.file(workdir.path, training.start, "last")
    return training.replaced(start=parameters.read(file))
