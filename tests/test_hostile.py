"""Files that mean harm or make no sense: one line of error, no network, bounded work."""

import inspect
import json
import os
import signal
import socket
import threading

import numpy as np
import pytest
from cases import same_bits
from click.testing import CliRunner

import initium as ini
from initium.checkpoint import init_checkpoint, plan_checkpoint
from initium.cli import common
from initium.cli.common import printable
from initium.cli.main import main
from initium.io import write_checkpoint
from initium.models import hugging_face
from initium.models.architecture import Architecture
from initium.models.hugging_face import from_config
from initium.recipes.reader import RecipeError, parse
from initium.recipes.rules import Rule
from initium.specs import TensorSpec

TINY = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 32,
}


def config(tmp_path, **changes):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**TINY, **changes}))
    return path


def run(*arguments, code=0):
    # Before click 8.2 the streams are apart only where this says so.
    apart = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
    result = CliRunner(**apart).invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


# --- a configuration is data --------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch):
    """Note whatever asks for the network."""
    asked = []
    monkeypatch.setattr(socket.socket, "connect", lambda *given: asked.append(given))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **_: asked.append(given) or [])
    return asked


@pytest.mark.parametrize(
    "changes",
    [
        {"_attn_implementation": "owner/repo"},
        {"attn_implementation": "owner/repo"},
        {"_attn_implementation_internal": "owner/repo"},
        {"_experts_implementation": "owner/repo"},
        {"auto_map": {"AutoConfig": "owner/repo--configuration.Config"}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_config_fetches_nothing(tmp_path, no_network, changes):
    expected = [(t.name, t.shape) for t in from_config(config(tmp_path)).tensors]
    found = from_config(config(tmp_path, **changes))
    assert [(t.name, t.shape) for t in found.tensors] == expected
    assert no_network == []
    assert next(iter(changes)) in found.config  # what is written is the user's own


def test_what_asks_for_others_is_left_out_at_any_depth():
    given = {
        "a": [{"use_pretrained_backbone": True, "attn_implementation": "o/r"}],
        "b": {"auto_map": 1, "c": 2},
    }
    assert hugging_face._harmless(given) == {"a": [{"use_pretrained_backbone": False}], "b": {"c": 2}}


def test_the_guard_stops_this_thread_alone():
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    tried = []

    def connect():
        try:
            socket.getaddrinfo("localhost", 1)
        except PermissionError as error:
            tried.append(str(error))
        except OSError:
            tried.append("tried")

    with hugging_face._offline():
        connect()
        other = threading.Thread(target=connect)
        other.start()
        other.join()
        assert constants.HF_HUB_OFFLINE
    connect()
    assert before == constants.HF_HUB_OFFLINE
    assert len([text for text in tried if "read offline" in text]) == 1


@pytest.mark.parametrize("key", ["num_hidden_layers", "num_local_experts", "n_layer", "num_labels"])
def test_numbers_of_layers_that_no_model_has(tmp_path, key):
    with pytest.raises(ValueError, match=rf"{key}=1000000000 is too large; expected at most 100,000"):
        from_config(config(tmp_path, **{key: 10**9}))
    with pytest.raises(ValueError, match=f"{key}=a number of more than 20 digits"):
        from_config(config(tmp_path, text_config={key: 10**30}))


def test_tables_too_deep_to_look_through(tmp_path, monkeypatch):
    path = config(tmp_path)  # where JSON is read to any depth, as by later versions of Python
    deep = {}
    for _ in range(5000):
        deep = {"a": deep}
    monkeypatch.setattr(hugging_face, "read_config", lambda path: {**TINY, "a": deep})
    with pytest.raises(ValueError, match=r"config\.json: maximum recursion depth"):
        from_config(path)


def test_a_constructor_that_makes_tensors_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(hugging_face, "_MOST_TENSORS", 10)
    with pytest.raises(ValueError, match="more than 10 tensors"):
        from_config(config(tmp_path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_a_fifo_in_place_of_a_file(tmp_path):
    for name in ("config.json", "r.toml", "w.safetensors", "w.safetensors.index.json"):
        os.mkfifo(tmp_path / name)
    for name in ("config.json", "w.safetensors", "w.safetensors.index.json"):
        message = run("plan", tmp_path / name, code=1).stderr
        assert "No such file" in message or "not a file" in message
    assert "No such file" in run("plan", "gpt2", "--recipe", tmp_path / "r.toml", code=1).stderr


# --- terminals ----------------------------------------------------------------------------------------------


def test_escape_sequences_do_not_reach_the_terminal(tmp_path):
    name = "a\x1b[2J\x1b]0;owned\x07\u202e.weight"
    tensors = [TensorSpec(name, (2, 2), "float32")]
    path = tmp_path / "evil.safetensors"
    write_checkpoint(path, tensors, lambda pieces: None, metadata={})
    output = run("plan", path, "--recipe", "normal").stdout
    assert printable(name) in output
    assert not set(output) & {"\x1b", "\x07", "\u202e"}
    recipe = tmp_path / "r.toml"
    recipe.write_text("[[rules]]\nmatch = 'none'\ninit = 'ones'\n")
    message = run("plan", path, "--recipe", recipe, code=1).stderr
    assert "\\x1b" in message and not set(message) & {"\x1b", "\x07", "\u202e"}


def test_errors_are_short(tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text(f"[[rules]]\nmatch = '*'\ninit = 'normal'\nstd = '{'1 + ' * 100_000}1'\n")
    message = run("plan", "gpt2", "--recipe", recipe, code=1).stderr
    assert len(message) < 2200 and "characters more" in message


def test_a_recipe_whose_path_is_not_unicode(tmp_path):
    path = os.fsencode(tmp_path) + b"/r\xff.toml"
    with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write("[[rules]]\nmatch = '*'\ninit = 'ones'\n[[rules]]\nmatch = 'none'\ninit = 'ones'\n")
    result = run("init", "gpt2", "--recipe", os.fsdecode(path), "-o", tmp_path / "w.safetensors")
    assert "r\\udcff.toml" in result.stderr


# --- recipes ------------------------------------------------------------------------------------------------

RULE = "[[rules]]\nmatch = '*'\ninit = 'normal'\nstd = 1.0\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a" + ".a" * 20_000 + " = 1\n", r"r\.toml:1: a key has more than 100 parts"),
        (f"[constants]\nc = 1{'0' * 400}\n{RULE}", r"r\.toml:2: constant c=1"),
        (f"[constants]\nc = inf\n{RULE}", r"r\.toml:2: constant c=inf"),
        ("[[rules]]\nregex = 'a{8589934592}'\ninit = 'ones'\n", r"r\.toml:2: regex='a\{8589934592\}'"),
        (f"seed = 1{'0' * 5000}\n{RULE}", r"r\.toml: Exceeds the limit"),
        (f"[[rules]]\nregex = '{'(' * 5000}{')' * 5000}'\ninit = 'ones'\n", r"r\.toml:2: regex="),
        (RULE.replace("1.0", f"'{'(' * 5000}1{')' * 5000}'"), r"r\.toml:1: formula '"),
        (RULE.replace("1.0", "'1e400'"), "expected a finite number"),
        (RULE.replace("1.0", "'9 ** 9 ** 9'"), "formula"),
        (RULE.replace("1.0", "'\\u0000'"), "formula|TOML|Illegal|Invalid"),
    ],
)
def test_recipes_that_make_no_sense(text, message):
    with pytest.raises(RecipeError, match=message):
        parse(text, "r.toml").resolve(depth=1, width=1)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
def test_a_regular_expression_that_never_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "_MOST_SECONDS", 0.3)
    tensors = [TensorSpec("a" * 40 + "!", (2,), "float32")]
    write_checkpoint(tmp_path / "w.safetensors", tensors, lambda pieces: None, metadata={})
    (tmp_path / "r.toml").write_text("[[rules]]\nregex = '^(a+)+$'\ninit = 'ones'\n")
    before = signal.getsignal(signal.SIGALRM)
    message = run("plan", tmp_path / "w.safetensors", "--recipe", tmp_path / "r.toml", code=1).stderr
    assert "takes more than 0.3 s; expected simpler regular expressions" in message
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


@pytest.mark.filterwarnings("ignore:no remaining tensor matches")
def test_thousands_of_rules_for_one_name_each_are_looked_up(monkeypatch):
    matched = []
    matcher = Rule.matcher
    monkeypatch.setattr(Rule, "matcher", lambda rule: matched.append(rule) or matcher(rule))
    names = [f"layers.{i}.weight" for i in range(3000)]
    rules = [(name, ini.Constant(i)) for i, name in enumerate(names)]
    rules.insert(1500, ("layers.299[0-4].weight", ini.Constant(-1.0)))
    rules.append(("*", ini.Constant(-2.0)))
    report = ini.init_model(dict.fromkeys([*names, "other"], (1,)), rules, seed=1)
    values = {name: float(array[0]) for name, array in report.weights.items()}
    assert len(matched) == 2  # the globs alone
    early = {f"layers.{i}.weight": -1.0 for i in range(2990, 2995)}
    assert values == {**{name: float(i) for i, name in enumerate(names)}, **early, "other": -2.0}


@pytest.mark.filterwarnings("ignore:no remaining tensor matches")
@pytest.mark.parametrize(
    ("patterns", "winner"),
    [(("a.*", "a.w"), 0), (("a.w", "a.*"), 0), (("b", "a.*", "a.w"), 1), (("b", "a.w", "*", "a.w"), 1)],
)
def test_the_first_rule_wins_by_name_or_by_glob(patterns, winner):
    rules = [(pattern, ini.Constant(place)) for place, pattern in enumerate(patterns)]
    assert ini.init_model({"a.w": (1,)}, rules, seed=1).weights["a.w"][0] == winner


# --- arrays -------------------------------------------------------------------------------------------------


def test_more_axes_than_arrays_have():
    for shape in ((1,) * 33, (0,) * 65, (1,) * 1000):
        with pytest.raises(ValueError, match=rf"shape has {len(shape)} axes; expected at most 32"):
            ini.normal(shape, seed=1)
    assert ini.normal((1,) * 32, seed=1).shape == (1,) * 32


def test_interleaved_memory_that_no_elements_share():
    memory = np.zeros(40, np.float32)
    out = np.lib.stride_tricks.as_strided(memory, (3, 2), (8, 12))  # at 0, 12, 8, 20, 16, 28
    assert same_bits(ini.normal((3, 2), seed=1, out=out).copy(), ini.normal((3, 2), seed=1))
    shared = np.lib.stride_tricks.as_strided(memory, (4, 2), (8, 16))  # 16 twice
    with pytest.raises(ValueError, match="elements share memory"):
        ini.normal((4, 2), seed=1, out=shared)


def test_large_plans_take_one_look_at_each_tensor(monkeypatch):
    tensors = tuple(TensorSpec(f"layers.{i}.weight", (4, 4), "float32") for i in range(20_000))
    looked = []
    matcher = Rule.matcher

    def counting(rule):
        matches = matcher(rule)
        return lambda name: looked.append(name) or matches(name)

    monkeypatch.setattr(Rule, "matcher", counting)
    plan = plan_checkpoint(Architecture("m", "", tensors), parse(RULE, "r.toml"))
    assert len(plan.drawn) == len(looked) == len(tensors)


def test_a_checkpoint_of_nothing_is_named(tmp_path):
    with pytest.raises(ValueError, match="has no weights to draw"):
        init_checkpoint(Architecture("m", "", ()), tmp_path / "w.safetensors")
