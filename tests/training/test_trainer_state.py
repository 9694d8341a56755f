"""Adam's moments from the checkpoint of a Hugging Face Trainer: those of its own parameters."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from g2is_jax.model.adapters import read_adapter
from g2is_jax.model.build import build_model
from g2is_jax.model.lora import checkpoint_path
from g2is_jax.runs.errors import InputError
from g2is_jax.training.optimizer import OptimizerConfig
from g2is_jax.training.trainer_state import read_trainer_moments
from tests.support.tiny_models import FLOAT32, config_of, lora_config, oracle

FAMILIES = ("llama", "gemma3_text", "olmo2")
ADAM = OptimizerConfig(1e-3, "linear", 0.0, 0.0, b1=0.9, b2=0.999, eps=1e-8)
STEPS = 3
LORA = lora_config("all-linear")


def trained(torch, family: str, folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A Trainer's run of an adapter, with a checkpoint at its end; the moments by PEFT's names."""
    import peft
    import transformers

    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    own = peft.LoraConfig(r=LORA.rank, lora_alpha=LORA.alpha, target_modules=modules)
    model = peft.get_peft_model(oracle(torch, family), own)
    tokens = torch.randint(3, 120, (6, 9))
    rows = [{"input_ids": row, "labels": row} for row in tokens]
    arguments = transformers.TrainingArguments(
        str(folder),
        max_steps=STEPS,
        save_steps=STEPS,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=rows)
    trainer.train()
    state = trainer.optimizer.optimizer.state
    return {
        name.replace(".default.", "."): tuple(
            state[parameter][part].numpy().copy() for part in ("exp_avg", "exp_avg_sq")
        )
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def model_of(family: str):
    return build_model(config_of(family), LORA, FLOAT32)


@pytest.fixture(scope="module")
def checkpoint(torch, tmp_path_factory) -> epath.Path:
    folder = tmp_path_factory.mktemp("trainer")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the Trainer's own
        trained(torch, "llama", folder)
    return epath.Path(folder / f"checkpoint-{STEPS}")


@pytest.mark.filterwarnings("ignore")  # of the Trainer's own
@pytest.mark.parametrize("family", FAMILIES)
def test_moments_are_those_of_the_parameters(torch, family, tmp_path):
    expected = trained(torch, family, tmp_path)
    model, folder = model_of(family), epath.Path(tmp_path / f"checkpoint-{STEPS}")
    moments = read_trainer_moments(folder, model, ADAM)
    assert moments is not None
    assert moments.step == STEPS
    assert len(model.adapter_shapes) == len(expected) == 2 * 7 * 2
    for found, part in ((moments.first, 0), (moments.second, 1)):
        for path, leaf in model.adapter_layout.by_layer(found).items():
            own = expected[f"base_model.model.model.{checkpoint_path(path)}.weight"][part]
            np.testing.assert_array_equal(leaf, own)
            assert own.any()
    read_adapter(folder, model)  # lies beside it


@pytest.fixture
def copy(checkpoint, tmp_path) -> epath.Path:
    folder = tmp_path / "copy"
    shutil.copytree(checkpoint, folder)
    return epath.Path(folder)


def changed_state(torch, folder: epath.Path, change) -> None:
    state = torch.load(folder / "optimizer.pt", weights_only=True)
    torch.save(change(state), folder / "optimizer.pt")


def read(folder: epath.Path, model=None, adam: OptimizerConfig = ADAM):
    return read_trainer_moments(folder, model or model_of("llama"), adam)


@pytest.mark.parametrize("told", ["keys", "groups"])
def test_names_count_where_the_file_tells_them(torch, copy, told):
    """As LESS's released code has them, and as newer versions of torch do."""
    expected, model = read(copy), model_of("llama")
    adapter = (copy / "adapter_model.safetensors").read_bytes()
    assert adapter
    blocks = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
    mlp = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    names = [
        f"module.base_model.model.model.layers.{layer}.{module}.lora_{leaf}.default.weight"
        for layer in range(2)
        for module in (*blocks, *mlp)
        for leaf in "AB"
    ]

    def change(state):
        own = dict(reversed(state["state"].items()))  # in another order
        if told == "keys":
            return state | {"state": {names[number]: value for number, value in own.items()}}
        group = state["param_groups"][0]
        shuffled = group | {"params": [*own], "param_names": [names[n] for n in own]}
        return {"state": own, "param_groups": [shuffled]}

    changed_state(torch, copy, change)
    if told == "keys":
        (copy / "optimizer.pt").rename(copy / "optimizer.bin")
    for path, leaf in read(copy, model).first.items():
        np.testing.assert_array_equal(leaf, expected.first[path])


def test_without_a_state_there_are_none(copy):
    (copy / "optimizer.pt").unlink()
    assert read(copy) is None


@pytest.mark.parametrize(
    ("name", "kind"),
    [("global_step3", "DeepSpeed"), ("optimizer_0", "FSDP"), ("pytorch_model_fsdp_0", "FSDP")],
)
def test_shards_are_refused(copy, name, kind):
    (copy / name).mkdir()
    with pytest.raises(InputError, match=rf"{name}: .* in shards of {kind}; save it whole"):
        read(copy)


def rename(state, names):
    for own in state["state"].values():
        for old, new in names.items():
            own[new] = own.pop(old)
    return state


def without_one(state):
    state["state"].pop(3)
    return state


def narrower(state):
    state["state"][4]["exp_avg"] = state["state"][4]["exp_avg"][:1]
    return state


WRONG = {  # of a state -> what the error says
    "of another optimiser": (
        lambda state: rename(state, {"exp_avg": "state1", "exp_avg_sq": "state2"}),
        r"state1, state2 of a parameter, not step, exp_avg .* adamw_torch",
    ),
    "of fewer parameters": (without_one, r"moments of 27 of the adapter's 28 parameters"),
    "of another shape": (narrower, r"parameter 4 is of shape .* of another adapter"),
    "of no optimiser": (lambda state: {"weights": state["state"]}, r"not the state of a torch"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_state_that_does_not_fit(torch, copy, wrong):
    change, message = WRONG[wrong]
    changed_state(torch, copy, change)
    with pytest.raises(InputError, match=rf"optimizer\.pt: .*{message}"):
        read(copy)


def test_a_state_of_other_names(torch, copy):
    changed_state(
        torch, copy, lambda s: s | {"state": {f"model.{n}": own for n, own in s["state"].items()}}
    )
    with pytest.raises(InputError, match=r"parameter model\.0 is not one of the adapter's 28"):
        read(copy)


def test_the_constants_of_adam_have_to_be_the_same(copy):
    with pytest.raises(InputError, match=r"of b2 0\.999; set warmup\.b2 to that"):
        read(copy, adam=OptimizerConfig(1e-3, "linear", 0.0, 0.0, 0.9, 0.95, 1e-8))


def test_no_code_is_run(torch, copy, tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "run",))

    torch.save({"state": {0: Evil()}, "param_groups": []}, copy / "optimizer.pt")
    with pytest.raises(InputError, match=r"optimizer\.pt: not the state of a torch optimiser"):
        read(copy)
    assert not (tmp_path / "run").exists()
