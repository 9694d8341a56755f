"""The stages of one work folder, as a command runs or reuses them."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import jax
from etils import epath

from g2is_jax.runs.errors import NotFinished
from g2is_jax.runs.manifest import read_manifest
from g2is_jax.runs.stages import Stage, is_finished, run_stages, stage_folder

RUN, REUSED = "run", "reused"


@dataclass(frozen=True, eq=False)
class Stages:
    """Runs stages in a work folder, with a line on what happened to each.

    builds: whether a stage that is not finished is run; else it is an error. shows: whether
    selections are copied to where people look for them. used: each finished folder, with the
    stage's name and RUN or REUSED.
    """

    workdir: epath.Path
    builds: bool = True
    shows: bool = True
    used: dict[epath.Path, tuple[str, str]] = field(default_factory=dict)
    _reported: set[epath.Path] = field(default_factory=set)

    def for_variant(self) -> "Stages":
        """Stages of the same folder for another config, which count its own and show nothing."""
        return dataclasses.replace(self, shows=False, used={})

    def run(
        self, stage: Stage, label: str, build: Callable[[epath.Path], dict], shared: bool = False
    ) -> epath.Path:
        """The finished folder of one stage; arguments as in `runs.run_stage`."""
        return self.run_together(
            {label: stage}, lambda folders: {label: build(folders[label])}, shared
        )[label]

    def run_together(
        self,
        stages: Mapping[str, Stage],
        build: Callable[[dict[str, epath.Path]], dict[str, dict]],
        shared: bool = False,
    ) -> dict[str, epath.Path]:
        """The finished folders of stages, by label; `build` fills all that are not finished.

        It takes their folders, by label, and returns the counts of each for its manifest.
        """
        built: list[str] = []

        def build_and_report(folders: dict[str, epath.Path]) -> dict[str, dict]:
            built.extend(folders)
            for label in folders:
                print(f"{stages[label].name} {label}", flush=True)
            counts = build(folders)
            return {label: {"devices": jax.device_count(), **counts[label]} for label in folders}

        if not self.builds:
            self._check_finished(stages)
        finished = run_stages(self.workdir, stages, build_and_report, shared)
        for label, folder in finished.items():
            how = RUN if label in built else REUSED
            self.used.setdefault(folder, (stages[label].name, how))
            self._report(folder, f"{stages[label].name} {label}", how)
        return finished

    def _check_finished(self, stages: Mapping[str, Stage]) -> None:
        for label, stage in stages.items():
            if not is_finished(stage_folder(self.workdir, *stage)):
                raise NotFinished(
                    f"{self.workdir}: the stage {stage.name} {label} is not finished; finish the "
                    "run with experiments.run_all and the same config first"
                )

    def _report(self, folder: epath.Path, name: str, how: str) -> None:
        if folder not in self._reported:
            done = _took(read_manifest(folder)) if how == RUN else REUSED
            print(f"{name}: {done} ({folder.name})", flush=True)
            self._reported.add(folder)


def _took(manifest: dict) -> str:
    text = f"done in {manifest['seconds']:.1f} s"
    if count := manifest["compilations"]:
        text += f", {manifest['compile_seconds']:.1f} of them for compiling {count} programs"
    return text


def has_stages(workdir: epath.Path) -> bool:
    """Tell whether work was done here: a run that was refused does not bind the folder to it."""
    return any(not stage.name.startswith("world-") for stage in (workdir / "stages").glob("*"))
