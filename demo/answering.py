"""Phase two: teach the decoder to answer questions about pictures, many questions on each picture.

Three losses on the attention of text rows to the picture help it find out how to look things up, and decide
where in depth it does so (see `attention_losses`).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlavaForConditionalGeneration

from demo.model import Look, image_features, read_questions
from demo.pool import Pool
from demo.prompts import IGNORED, Batch, Prompter
from demo.questions import KINDS, Question, ask
from demo.seeing import normalise
from demo.state import Run, learning_rate
from demo.validate import accuracy_of, held_out_set

# How often a kind is asked about, relative to the others: counting and comparing are harder than reading off.
FREQUENCY = {
    "color": 1,
    "shape": 1,
    "number": 1,
    "where": 1.2,
    "what": 1.2,
    "count": 4,
    "exists": 2,
    "describe": 1,
}
_END_WEIGHT = 0.2  # the end token is easy, and drowns the rest at first
_VALIDATE_EVERY = 500


def answer_phase(run: Run, pool: Pool, *, steps: int, batch: int = 16, questions: int = 24, peak: float = 1e-3) -> None:
    """Train the decoder with tower and projector fixed; export the best checkpoint by held-out accuracy."""
    model = run.model
    prompter = Prompter(run.processor.tokenizer)
    features = features_of(model, pool.images)
    held_out = held_out_set(run.processor, 1000)
    parameters = [
        *model.model.language_model.parameters(),  # the embedding table among them
        *model.lm_head.parameters(),
    ]
    optimizer = run.optimizer(parameters, "answer")
    smooth: dict[str, float] = {}
    for step in run.steps("answer", steps, optimizer):
        rng = np.random.default_rng([run.seed, 2, step])
        picked = rng.integers(len(features), size=batch)
        rows = prompter.batch([_questions(rng, pool, int(i), questions) for i in picked])
        foreground = torch.from_numpy(pool.labels[picked, 0] == 1).float()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak, warmup=150)
        losses = step_losses(model, prompter, features[picked].float(), rows, foreground)
        guide = max(0.0, 1 - step / (0.4 * steps))
        loss = losses["answer"] + 0.15 * losses["rank"] + 0.1 * guide * losses["find"] + 0.1 * losses["early"]
        optimizer.zero_grad()
        loss.backward()
        losses["grad"] = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        for name, loss in losses.items():
            smooth[name] = 0.95 * smooth.get(name, loss.item()) + 0.05 * loss.item()
        if (step + 1) % 50 == 0:
            run.console.print(f"answer {step + 1}: " + ", ".join(f"{k} {v:.3f}" for k, v in smooth.items()))
        if (step + 1) % _VALIDATE_EVERY == 0 or step + 1 == steps:
            accuracy = accuracy_of(model, prompter, held_out)
            run.console.print(f"answer {step + 1}: " + ", ".join(f"{k} {v:.1%}" for k, v in accuracy.items()))
            run.export_if_best(accuracy["all"])


@torch.no_grad()
def features_of(model: LlavaForConditionalGeneration, images: np.ndarray) -> Tensor:
    """Visual tokens bf16 [N, 144, D] of uint8 [N, 168, 168, 3]."""
    with torch.autocast("cpu", torch.bfloat16):
        return torch.cat(
            [image_features(model, normalise(part)).bfloat16() for part in np.array_split(images, len(images) // 50)]
        )


def step_losses(
    model: LlavaForConditionalGeneration,
    prompter: Prompter,
    features: Tensor,
    rows: Batch,
    foreground: Tensor,
) -> dict[str, Tensor]:
    """Losses and accuracy of B pictures (features [B, 144, D]) with Q questions each."""
    with torch.autocast("cpu", torch.bfloat16):
        embed = model.get_input_embeddings()
        opening = embed(prompter.prefix_ids[: prompter.first_visual]).expand(len(features), -1, -1)
        states, looks = read_questions(
            model, torch.cat([opening, features], dim=1), embed(rows.ids), prompter.first_visual
        )
        asked = rows.targets != IGNORED
        targets = rows.targets[asked]
        logits = model.lm_head(states[asked]).float()
    weight = torch.where(targets == prompter.tokenizer.eos_token_id, _END_WEIGHT, 1.0)
    answer = (cross_entropy(logits, targets, reduction="none") * weight).sum() / weight.sum()
    right = logits.argmax(-1) == targets
    wrong = torch.zeros_like(asked).masked_scatter(asked, ~right).any(-1)
    return {
        "answer": answer,
        **attention_losses(looks, rows, foreground, rows.ids != prompter.tokenizer.pad_token_id),
        "right": 1 - wrong.float().mean().detach(),
    }


def attention_losses(looks: list[Look], rows: Batch, foreground: Tensor, real: Tensor) -> dict[str, Tensor]:
    """Where in depth text looks at the picture. All are means over questions.

    rank:  the ranking FastV reads (last prompt row, mean over heads, among visual tokens only) favours the
           patches that the question is about in layers 1 and 2, and any object in layer 0, which cannot know
           the question.
    find:  in layers 2 and 3, half of the heads look at those patches while the answer is spoken.
    early: layers 0 and 1 take little from the picture, as large models read it in their middle layers.
    """
    b, q = rows.last.shape
    at = (torch.arange(b)[:, None], slice(None), torch.arange(q)[None], rows.last)
    about = rows.patches
    pointed = about.sum(-1) > 0
    any_object = (foreground / foreground.sum(-1, keepdim=True))[:, None].expand(-1, q, -1)
    rank = torch.zeros(())
    for index, target in ((0, any_object), (1, about), (2, about)):
        scores = looks[index].probabilities[at].mean(dim=2)  # [B, Q, 144]
        shares = scores / scores.sum(-1, keepdim=True).clamp(min=1e-9)
        rank = rank - ((target * (shares + 1e-6).log()).sum(-1) * pointed).mean()
    counted = torch.tensor([[kind == "count" for kind in row] for row in rows.kinds])
    speaking = (rows.targets != IGNORED) & (pointed & ~counted)[..., None]
    find = torch.zeros(())
    for index in (2, 3):
        scores = looks[index].probabilities[:, :2].mean(dim=1)[speaking]  # [rows, 144]
        target = about[:, :, None].expand(-1, -1, speaking.shape[-1], -1)[speaking]
        find = find - (target * (scores + 1e-6).log()).sum(-1).mean()
    early = torch.zeros(())
    for index in (0, 1):
        taken = looks[index].probabilities.sum(-1).mean(dim=1)  # [B, Q, T]
        early = early - (1 - taken[real]).clamp(min=1e-4).log().mean()
    return {"rank": rank, "find": find, "early": early}


def _questions(rng: np.random.Generator, pool: Pool, index: int, count: int) -> list[Question]:
    scene, kinds = pool.scene(index), list(KINDS)
    share = np.array([FREQUENCY[kind] for kind in kinds])
    found: list[Question] = []
    while len(found) < count:
        for kind in rng.choice(len(kinds), size=count - len(found), p=share / share.sum()):
            question = ask(rng, scene, kinds[kind])
            if question is not None:
                found.append(question)
    return found
