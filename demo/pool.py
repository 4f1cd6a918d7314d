"""Scenes drawn ahead of training by several processes."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import numpy as np
from rich.progress import track

from demo.labels import patch_labels
from demo.scenes import NO_PICTURE, Scene, Thing, draw_scene

_CHUNK = 200  # scenes a process draws per task


@dataclass
class Pool:
    """Pictures uint8 [N, 168, 168, 3], patch labels int8 [N, groups, 144] and objects of N scenes."""

    images: np.ndarray
    labels: np.ndarray
    things: list[tuple[Thing, ...]]

    def scene(self, index: int) -> Scene:
        """Objects of one scene; the questions do not look at the picture."""
        return Scene(NO_PICTURE, self.things[index])


def draw_pool(count: int, seed: int, *, numbers: float = 0.3, held_out: bool = False, workers: int = 2) -> Pool:
    """Draw `count` scenes (rounded up to a chunk), the same for the same seed; `numbers` is the share of digits."""
    chunks = -(-count // _CHUNK)
    draw = partial(_draw_chunk, seed, numbers, held_out)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as processes:
        parts = list(track(processes.map(draw, range(chunks)), f"drawing {count} scenes", chunks))
    images, labels, things = zip(*parts, strict=True)
    return Pool(np.concatenate(images), np.concatenate(labels), [t for part in things for t in part])


def _draw_chunk(
    seed: int, numbers: float, held_out: bool, chunk: int
) -> tuple[np.ndarray, np.ndarray, list[tuple[Thing, ...]]]:
    rng = np.random.default_rng([seed, chunk])
    scenes = [draw_scene(rng, numbers=numbers, held_out=held_out) for _ in range(_CHUNK)]
    images = np.stack([np.asarray(scene.image) for scene in scenes])
    return images, np.stack([patch_labels(scene) for scene in scenes]), [scene.things for scene in scenes]
