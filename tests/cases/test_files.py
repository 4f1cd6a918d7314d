"""Files of a checkpoint that nothing could be made of end in one line that names them, before anything is traced."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastv_export.exporting import export_bundle
from fastv_export.plan import Options
from fastv_export.progress import Progress
from fastv_export.tracing import trace
from fastv_runtime.errors import UserError
from tests.cases.llava import write_llava

Edit = Callable[[Path], Any]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "llava"
    write_llava(path)
    return path


def written(name: str, text: str) -> Edit:
    return lambda path: (path / name).write_text(text)


def edited(name: str, part: str | None = None, **values: Any) -> Edit:
    """Values of a JSON file, or of one object in it."""

    def edit(path: Path) -> None:
        file = path / name
        content = json.loads(file.read_text()) if file.is_file() else {}
        (content if part is None else content[part]).update(values)
        file.write_text(json.dumps(content))

    return edit


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (written("tokenizer.json", "{"), "cannot be used (JSONDecodeError"),
        (written("tokenizer.json", "{}"), "cannot be used (KeyError"),
        (written("tokenizer_config.json", "["), "cannot be used"),
        (written("processor_config.json", "{"), "cannot be used"),
        (edited("processor_config.json", "image_processor", image_processor_type="Nope"), "cannot be used"),
        (written("chat_template.jinja", "{% for"), "chat template"),
        (written("chat_template.jinja", "{{ raise_exception('no way') }}"), "no way"),
        (written("generation_config.json", "[]"), "generation_config.json"),
        (edited("generation_config.json", eos_token_id="</s>"), "eos_token_id '</s>'"),
        (edited("config.json", image_token_id=99999), "image_token_id 99999 is no token of the tokenizer"),
        (edited("config.json", image_token_id=-1), "config.json: cannot be used (image is -1: must be at least 0)"),
        (edited("config.json", "text_config", num_attention_heads="4"), "config.json: "),
        (edited("config.json", "text_config", num_attention_heads=0), "config.json: cannot be used (ZeroDivisionError"),
        (edited("config.json", "text_config", hidden_act="zzz"), "config.json: cannot be used (KeyError: 'zzz')"),
        (edited("config.json", vision_feature_select_strategy="zzz"), "config.json: "),
        (edited("config.json", vision_feature_layer=99), "config.json: cannot be used (IndexError"),
        (edited("processor_config.json", "image_processor", do_center_crop=False), "do not belong together"),
    ],
)
def test_one_line_names_what_cannot_be_used(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edit: Edit, words: str
) -> None:
    def traced(*_: Any) -> None:
        raise AssertionError("traced before the files were looked at")

    monkeypatch.setattr(trace, "as_traced", traced)
    path = tmp_path / "source"
    shutil.copytree(source, path)
    edit(path)
    with pytest.raises(UserError) as caught:
        export_bundle(path, tmp_path / "out.fastv", Options(max_new_tokens=8), Progress(None))
    line = str(caught.value)
    assert line.startswith(str(path)) and words in line and "\n" not in line and ".partial-" not in line
    assert [each.name for each in tmp_path.iterdir()] == ["source"]
