#!/usr/bin/env python3
"""hone model convert as a user sees it: the folder is whole and loads, or is absent."""
import json
import pathlib
import tempfile

from support import hone


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def converted_folders_load(folder, model):
    for dtype, most in (("f32", 1.01), ("bf16", 0.52), ("fp8", 0.45)):
        target = folder / dtype
        done = hone("model", "convert", model, target, "--dtype", dtype, "--shard-size", "100KB", "--json", check=0)
        stats = json.loads(done.stdout)
        assert stats["files"] > 1 and stats["bytes"] > 0, stats
        assert stats["bytes"] < most * (model / "model.safetensors").stat().st_size, stats
        config = json.loads((target / "config.json").read_text())
        assert config["torch_dtype"] == ("float32" if dtype == "f32" else "bfloat16"), config
        assert ("quantization_config" in config) == (dtype == "fp8"), config
        index = json.loads((target / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == stats["bytes"]
        assert len(index["weight_map"]) == stats["tensors"]
        assert "tokenizer.json" in names(target)
        hone("model", "check", target, check=0)


def what_was_f32_comes_back_byte_for_byte(folder, model):
    hone("model", "convert", folder / "f32", folder / "back", "--dtype", "f32", check=0)
    assert (folder / "back/model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def nothing_is_written_over_or_left_behind(folder, model):
    before = names(folder)
    refused = hone("model", "convert", model, folder / "f32", "--dtype", "bf16", check=2)
    assert "is there already" in refused.stderr, refused.stderr
    hone("model", "convert", model, folder / "x", "--dtype", "int4", check=2)
    hone("model", "convert", model, folder / "x", "--dtype", "f32", "--shard-size", "many", check=2)
    shard = sorted((folder / "bf16").glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-1])
    refused = hone("model", "convert", folder / "bf16", folder / "x", "--dtype", "f32", check=5)
    assert len(refused.stderr.strip().splitlines()) == 1, refused.stderr
    assert names(folder) == before, names(folder)


def kimi_is_written_under_the_name_that_others_load(folder, model):
    kimi = folder / "kimi"
    kimi.mkdir()
    for path in model.iterdir():
        (kimi / path.name).write_bytes(path.read_bytes())
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "kimi_k2", "architectures": ["KimiK2ForCausalLM"]}
    (kimi / "config.json").write_text(json.dumps(config))
    hone("model", "check", kimi, check=0)
    hone("model", "convert", kimi, folder / "v3", "--dtype", "bf16", check=0)
    written = json.loads((folder / "v3/config.json").read_text())
    assert written["model_type"] == "deepseek_v3", written
    assert written["architectures"] == ["DeepseekV3ForCausalLM"], written


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        hone("model", "init", folder / "demo", "--preset", "demo", "--seed", 5, check=0)
        model = folder / "model"
        hone("model", "init", model, "--preset", "tiny", "--set", "hidden_size=160", "--seed", 5,
             "--tokenizer", folder / "demo", check=0)
        for test in (converted_folders_load, what_was_f32_comes_back_byte_for_byte,
                     nothing_is_written_over_or_left_behind,
                     kimi_is_written_under_the_name_that_others_load):
            test(folder, model)
            print("ok", test.__name__)


if __name__ == "__main__":
    main()
