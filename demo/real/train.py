"""Teach SmolLM2 to answer about drawn scenes: `python demo/real/train.py`. Resumes where an earlier run stopped.

The demo's tower stays as it is. The projector begins as a regression on word embeddings (beginning.py) and is trained
with a low-rank change of the decoder, by the loss on answers alone: nothing is asked of attention. Everything follows
from the seed; no data is downloaded.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import CLIPVisionModel, LlavaForConditionalGeneration

from demo.pool import Pool, draw_pool
from demo.questions import Question
from demo.real import beginning
from demo.real.asking import FREQUENCY, FREQUENCY_AT_FIRST, ask
from demo.real.assembling import assemble, build_processor
from demo.real.language import read_package
from demo.real.lowrank import Factors, attach
from demo.real.packing import IGNORED, Packer, states
from demo.real.stored import write_text, write_weights
from demo.real.validate import accuracy_of, describe_accuracy, validation_scenes
from demo.seeing import normalise
from demo.state import Budget, Training, learning_rate

ROOT = Path(__file__).resolve().parent.parent.parent
_REGRESSION_SCENES = 1000
_VALIDATE_EVERY = 100
_PROJECTOR_PACE = 0.02
"""Of the projector's learning rate beside the factors'. At 1 its visual tokens soon have nothing of the words that they
began as, are four times as long after 700 steps, and the decoder learns far slower."""
_LOOKING_UP = 0.5  # share of the steps that ask by FREQUENCY_AT_FIRST


class Trained(nn.Module):
    """What training changes: the projector and the factors of every linear layer of the decoder."""

    def __init__(self, projector: nn.Module, factors: dict[str, Factors]) -> None:
        super().__init__()
        self.projector = projector
        # Names of modules hold no dots.
        self.factors = nn.ModuleDict({name.replace(".", "/"): pair for name, pair in factors.items()})

    def state(self) -> dict[str, Tensor]:
        """Its tensors under the names that weights.safetensors has for them."""
        return {name.replace("/", "."): tensor.detach() for name, tensor in self.state_dict().items()}


class RealRun(Training[Trained]):
    """A run that keeps what it trains, not the whole model; and the tower, which it exports beside that."""

    tower: CLIPVisionModel

    def export(self) -> None:
        self.checkpoint.mkdir(parents=True, exist_ok=True)
        write_weights(self.checkpoint, self.tower, self.model.state())
        write_text(self.checkpoint / "training.json", json.dumps(self.record(), indent=1) + "\n")


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    language, tokenizer = read_package()
    demo = LlavaForConditionalGeneration.from_pretrained(ROOT / "demo" / "checkpoint").eval()
    model = assemble(language, demo.model.vision_tower, tokenizer)
    model.requires_grad_(False)
    factors = attach(model.model.language_model)
    for module in model.model.language_model.modules():
        if isinstance(module, nn.Linear):
            module.to(torch.bfloat16)
    trained = Trained(model.model.multi_modal_projector, factors)
    trained.requires_grad_(True)
    run = RealRun(
        model=trained,
        processor=build_processor(tokenizer),
        state_file=args.state / "state.pt",
        checkpoint=args.out,
        budget=Budget(args.minutes),
        seed=args.seed,
    )
    run.tower = model.model.vision_tower
    run.resume(fresh=args.fresh)
    pool = draw_pool(args.steps * args.images, args.seed + 1_003, numbers=0.35)
    features = tower_features(model, pool.images)
    if not run.done:
        targets = beginning.word_means(
            torch.from_numpy(pool.labels[:_REGRESSION_SCENES]),
            model.get_parameter("model.language_model.embed_tokens.weight").detach(),
            tokenizer,
        )
        left = beginning.fit(trained.projector, features[:_REGRESSION_SCENES].flatten(0, 1), targets.flatten(0, 1))
        run.console.print(f"projector: {left:.1%} of the variance of word embeddings is left")
    answer_phase(run, model, pool, features, steps=args.steps, images=args.images, peak=args.rate)


@torch.no_grad()
def tower_features(model: LlavaForConditionalGeneration, images: np.ndarray) -> Tensor:
    """Tower features bf16 [N, 144, F] of uint8 [N, 168, 168, 3]."""
    tower = model.model.vision_tower
    parts = np.array_split(images, -(-len(images) // 50))
    return torch.cat(
        [tower(pixel_values=normalise(p), output_hidden_states=True).hidden_states[-1][:, 1:].bfloat16() for p in parts]
    )


def answer_phase(
    run: RealRun,
    model: LlavaForConditionalGeneration,
    pool: Pool,
    features: Tensor,
    *,
    steps: int,
    images: int,
    questions: int = 14,
    peak: float,
) -> None:
    """Train on `images` pictures a step, each seen once, with `questions` on each; keep the best by validation."""
    packer = Packer(run.processor.tokenizer)
    scenes = validation_scenes(40)
    held_out = tower_features(model, np.stack([np.asarray(s.image) for s, _ in scenes]))
    held_out_questions = [q for _, q in scenes]
    factors, projector = list(run.model.factors.parameters()), list(run.model.projector.parameters())
    parameters: list[Tensor] = [*factors, *projector]
    optimizer = run.optimizer(factors, "answer", projector, _PROJECTOR_PACE)
    smooth: dict[str, float] = {}

    def gradients(row: Tensor, asked: list[Question]) -> tuple[dict[str, float], Sequence[Tensor]]:
        loss, right = question_loss(model, packer, row, asked)
        return {"loss": loss.item(), "right": right}, torch.autograd.grad(loss, parameters)

    # A picture a thread: threads that share an operator wait for each other thousands of times a step, which on a
    # machine with other work costs more than the work.
    workers = ThreadPoolExecutor(min(images, torch.get_num_threads()), initializer=torch.set_num_threads, initargs=(1,))
    for step in run.steps("answer", steps, optimizer):
        rng = np.random.default_rng([run.seed, 2, step])
        for group in optimizer.param_groups:
            rate = learning_rate(step, steps, peak, warmup=30, decay=0.4)
            group["lr"] = rate * group.get("pace", 1.0)
        indices = range(step * images, (step + 1) * images)
        frequency = FREQUENCY_AT_FIRST if step < _LOOKING_UP * steps else FREQUENCY
        asked = [draw_questions(rng, pool, index, questions, frequency) for index in indices]
        each = list(workers.map(gradients, [features[index] for index in indices], asked))
        for parameter, *parts in zip(parameters, *(part for _, part in each), strict=True):
            parameter.grad = torch.stack(parts).mean(dim=0)
        for found, _ in each:
            for name, value in found.items():
                smooth[name] = 0.97 * smooth.get(name, value) + 0.03 * value
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if (step + 1) % 10 == 0:
            seconds = run.seconds.get("answer", 0.0)
            run.console.print(f"{step + 1} {seconds:.0f} s: " + ", ".join(f"{k} {v:.3f}" for k, v in smooth.items()))
        if (step + 1) % _VALIDATE_EVERY == 0 or step + 1 == steps:
            with torch.autocast("cpu", torch.bfloat16):
                accuracy = accuracy_of(model, packer, held_out, held_out_questions)
            run.console.print(f"{step + 1} validation: " + describe_accuracy(accuracy))
            run.export_if_best(accuracy["all"])


def question_loss(
    model: LlavaForConditionalGeneration, packer: Packer, features: Tensor, questions: list[Question]
) -> tuple[Tensor, float]:
    """Mean loss over tokens of the answers, and the share of tokens that are right, for one picture."""
    packed = packer.pack(questions)
    # The cache of casts would be shared by threads.
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        visual = model.model.multi_modal_projector(features)
        hidden = states(model.model.language_model, packed, visual, packer.image)
        asked = packed.targets != IGNORED
        logits = model.lm_head(hidden[asked]).float()
    targets = packed.targets[asked]
    return cross_entropy(logits, targets), (logits.argmax(-1) == targets).float().mean().item()


def draw_questions(
    rng: np.random.Generator, pool: Pool, index: int, count: int, frequency: dict[str, float]
) -> list[Question]:
    """`count` questions on a scene of the pool, as often of a kind as `frequency` says, relative to the others."""
    scene, kinds = pool.scene(index), list(frequency)
    share = np.array([frequency[kind] for kind in kinds])
    found: list[Question] = []
    while len(found) < count:
        for kind in rng.choice(len(kinds), size=count - len(found), p=share / share.sum()):
            question = ask(rng, scene, kinds[kind])
            if question is not None:
                found.append(question)
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600, help="steps to train for (default %(default)s)")
    parser.add_argument("--images", type=int, default=2, help="pictures a step (default %(default)s)")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate (default %(default)s)")
    parser.add_argument("--minutes", type=float, default=None, help="stop after this long; run again to resume")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--fresh", action="store_true", help="start over, whatever state there is")
    parser.add_argument("--out", type=Path, default=ROOT / "demo" / "real", help="where the weights go")
    parser.add_argument("--state", type=Path, default=ROOT / "demo" / ".train-real", help="where to keep resume state")
    return parser.parse_args()


if __name__ == "__main__":
    main()
