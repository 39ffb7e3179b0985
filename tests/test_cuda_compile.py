"""The machine code that NVRTC makes of the CUDA source, read without a GPU."""

import json
import os
import re
from pathlib import Path

import nvrtc
import pytest

from initium.kernels import coefficients
from initium.kernels import table as T
from initium.kernels.cuda import source

ARCHITECTURES = (80, 90, 100)
every_kernel = pytest.mark.parametrize(("kind", "output"), source.ENTRIES)
every_architecture = pytest.mark.parametrize("arch", ARCHITECTURES)
TABLE = json.loads((Path(__file__).parents[1] / "benchmarks" / "results" / "instructions.json").read_text())
#: Instructions a float32 value on sm_90, loop included: a GPU with more would wait for arithmetic.
BUDGETS = {T.UNIFORM: 21, T.CENTRAL_NORMAL: 40, T.NORMAL: 48}


def operations(instructions, *names):
    return [i for i in instructions if i.name in names]


@every_architecture
@every_kernel
def test_no_spills_no_local_memory_and_all_groups_resident(kind, output, arch):
    kernel = nvrtc.kernel(kind, output, arch)
    assert (kernel.stack, kernel.spills) == (0, 0)
    assert not operations(kernel.function.instructions, "LDL", "STL")
    # A multiprocessor has 65,536 registers, given out by 8 a thread.
    assert -(-kernel.registers // 8) * 8 * source.THREADS * source.GROUPS[kind] <= 1 << 16


@every_architecture
@every_kernel
def test_main_loops_store_by_16_bytes(kind, output, arch):
    loop = nvrtc.kernel(kind, output, arch).function.hot_loop()
    stores = [i for block in loop for i in block.instructions if i.name in ("STG", "ST")]
    assert stores and all(i.operation.startswith("STG.E.128") for i in stores)
    assert not any(i.calls or i.name in ("LDG", "LD") for block in loop for i in block.instructions)


@pytest.mark.parametrize("arch", [80, 90])
@every_kernel
def test_flags_change_nothing(kind, output, arch):
    # Each operation names its rounding, so that neither -ftz nor contraction has a say in any instruction.
    usual = nvrtc.kernel(kind, output, arch).function.instructions
    opposite = ("-ftz=false", "-fmad=true", *nvrtc.CUPY_FLAGS[1:])
    assert usual == nvrtc.kernel(kind, output, arch, opposite).function.instructions


@every_kernel
def test_ptx_flushes_nothing_but_arguments_of_seeds(kind, output):
    ptx = compiled_ptx(kind, output)
    flushing = set(re.findall(r"\S+\.ftz\S*", ptx))
    assert flushing <= {"rcp.approx.ftz.f32", "rsqrt.approx.ftz.f32"}
    rounding = set(re.findall(r"^\s+((?:add|sub|mul|div|sqrt|fma)\.\S*f(?:32|64))\s", ptx, re.MULTILINE))
    assert all(".rn." in operation for operation in rounding), rounding
    assert not re.search(
        r"^\s+(?:mad|ex2|lg2|sin|cos|tanh)\.", ptx.replace("mad.lo", "").replace("mad.wide", ""), re.M
    )


def compiled_ptx(kind, output):
    flags = (*source.options(kind, output), *nvrtc.CUPY_FLAGS)
    ptx, _ = nvrtc.compile_text(source.source(), 90, flags, ptx=True)
    return ptx.decode().rstrip("\0")


def degrees(*names):
    return sum(len(getattr(coefficients, f"NORMAL32_{name}")) - 1 for name in names)


RECIPROCAL = 2
ROOT = 2
#: fma's a value as the formulas have them: the affine maps and s, Horner's rule, the steps, the quantile.
FUSED = {
    T.UNIFORM: 1,
    T.CENTRAL_NORMAL: 4 + degrees("CENTRAL_A", "CENTRAL_B") + RECIPROCAL + 1,
    T.NORMAL: 4 + ROOT + degrees("WIDE_A", "WIDE_B") + RECIPROCAL + 1,
}
PRODUCTS = {T.UNIFORM: 0, T.CENTRAL_NORMAL: 1, T.NORMAL: 3}
SEEDS = {T.UNIFORM: 0, T.CENTRAL_NORMAL: 1, T.NORMAL: 2}


@every_architecture
@pytest.mark.parametrize("output", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", FUSED)
def test_arithmetic_is_what_was_written(kind, output, arch):
    found = nvrtc.cost(kind, output, arch)["operations"]
    # sm_100 has instructions for two values at once; FADD and FMUL may be FFMA in other clothes there.
    pairs = sum(found.get(name, 0) for name in ("FFMA2", "FMUL2", "FADD2"))
    float_operations = sum(found.get(name, 0) for name in ("FFMA", "FMUL", "FADD")) + 2 * pairs
    assert float_operations == FUSED[kind] + PRODUCTS[kind]
    if not pairs:
        assert (found.get("FFMA", 0), found.get("FMUL", 0)) == (FUSED[kind], PRODUCTS[kind])
    assert found.get("MUFU", 0) == SEEDS[kind]
    assert not {"DFMA", "DMUL", "DADD", "HFMA2.MMA"} & set(found)


@pytest.mark.parametrize("kind", BUDGETS)
def test_instruction_budgets(kind):
    assert nvrtc.cost(kind, "float32", 90)["expected"] <= BUDGETS[kind]


@pytest.mark.parametrize("name", TABLE["kernels"])
def test_table_of_instructions_is_of_this_source(name):
    if TABLE["nvrtc"] != nvrtc.version():
        reason = f"the table is of NVRTC {TABLE['nvrtc']}, this is {nvrtc.version()}"
        # Set where the compiler is to be the table's.
        (pytest.fail if os.environ.get("INITIUM_REQUIRE_INSTRUCTIONS") == "1" else pytest.skip)(reason)
    kind, output, arch = name.split()
    found = nvrtc.cost(kind, output, int(arch.removeprefix("sm_")))
    assert json.loads(json.dumps(found)) == TABLE["kernels"][name], "run python benchmarks/instructions.py"


class _SeenError(Exception):
    """Carries the options that a compiler was given."""


def test_cupy_adds_these_flags_and_no_others(monkeypatch):
    pytest.importorskip("cupy", reason="CuPy is not installed")
    from cupy.cuda import compiler

    class Program:
        def __init__(self, *arguments, **named):
            pass

        def compile(self, options, log=None):
            raise _SeenError(options)

    monkeypatch.setattr(compiler, "_NVRTCProgram", Program)
    monkeypatch.setattr(compiler, "_preprocess", lambda *arguments: "")
    monkeypatch.setattr(
        compiler, "_get_arch_for_options_for_nvrtc", lambda arch: (f"-arch=sm_{arch}", "cubin")
    )
    given = source.options(T.UNIFORM, "float32")
    with pytest.raises(_SeenError) as seen:
        compiler._compile_module_with_cache(source.source(), given, arch="90")
    (options,) = seen.value.args
    # A precompiled header, where NVRTC has them, changes no code.
    assert set(options) - {"--pch"} == {*given, *nvrtc.CUPY_FLAGS, "-arch=sm_90"}


# --- NVIDIA's own IEEE sequences ----------------------------------------------------------------------------

NVIDIA = """
extern "C" __global__ void reciprocal_of(float* to, const float* from) { *to = __frcp_rn(*from); }
extern "C" __global__ void root_of(float* to, const float* from) { *to = __fsqrt_rn(*from); }
extern "C" __global__ void quotient_of(float* to, const float* from) { *to = __fdiv_rn(from[0], from[1]); }
"""
OURS = """
extern "C" __global__ void reciprocal_of(float* to, const float* from) { *to = reciprocal(*from); }
extern "C" __global__ void root_of(float* to, const float* from) { *to = square_root(*from); }
extern "C" __global__ void quotient_of(float* to, const float* from) { *to = divide(from[0], from[1]); }
"""


class Term:
    """A float expression up to sign and the order of factors: what code computes, however it says it."""

    def __init__(self, sign, *parts):
        self.sign, self.parts = sign, parts

    def __neg__(self):
        return Term(-self.sign, *self.parts)

    def key(self):
        return self.sign, *(p.key() if isinstance(p, Term) else p for p in self.parts)


def product(a, b):
    pair = sorted(((1, *a.key()[1:]), (1, *b.key()[1:])), key=repr)
    return Term(a.sign * b.sign, "product", *pair)


def fused(a, b, c):
    # As -(a b) - c rounds to minus what a b + c rounds to, the sign can stand in front.
    ab = product(a, b)
    return Term(ab.sign, "sum", ab.key()[1:], (c if ab.sign > 0 else -c).key())


def stored(function):
    """Return what a function of one or two loads stores, along the path that calls nothing."""
    known = {}

    def value(operand):
        name = operand.removesuffix(".reuse").lstrip("-")
        number = re.fullmatch(r"[0-9.]+", name)
        found = Term(1, float(name)) if number else known[name]
        return -found if operand.startswith("-") else found

    number = 0
    while True:
        block = function.blocks[number]
        for i in block.instructions:
            target, *operands = (part.strip() for part in i.operands.split(","))
            if i.name == "LDG":
                offset = re.search(r"\+(0x[0-9a-f]+)\]", i.operands)
                wide = ".64" in i.operation
                known[target] = Term(1, "load", int(offset[1], 16) if offset else 0)
                if wide:
                    known[f"R{int(target[1:]) + 1}"] = Term(1, "load", 4)
            elif i.name == "MUFU":
                known[target] = Term(1, i.operation, value(operands[0]).key())
            elif i.name == "FFMA" and operands[2] == "RZ":
                known[target] = product(value(operands[0]), value(operands[1]))
            elif i.name == "FFMA":
                known[target] = fused(*map(value, operands))
            elif i.name == "FMUL":
                known[target] = product(*map(value, operands))
            elif i.name == "FADD" and operands[1] == "-RZ":
                known[target] = value(operands[0])
            elif i.name in ("MOV", "IMAD") and operands[-1].removesuffix(".reuse") in known:
                known[target] = known[operands[-1].removesuffix(".reuse")]
            elif i.name == "STG":
                return known[operands[-1].removesuffix(".reuse")].key()
        number = next(
            s for s in block.successors if not any(i.calls for i in function.blocks[s].instructions)
        )


@every_architecture
@pytest.mark.parametrize("function", ["reciprocal_of", "root_of", "quotient_of"])
def test_nvidia_makes_the_same_steps(function, arch):
    theirs, _ = nvrtc.compile_text(NVIDIA, arch, nvrtc.CUPY_FLAGS)
    options = source.options(T.NORMAL, "float32")
    ours, _ = nvrtc.compile_text(source.source() + OURS, arch, (*options, *nvrtc.CUPY_FLAGS))
    assert stored(nvrtc.disassemble(theirs)[function]) == stored(nvrtc.disassemble(ours)[function])


def test_other_steps_are_noticed():
    options = (*source.options(T.NORMAL, "float32"), *nvrtc.CUPY_FLAGS)
    found = []
    for step in ("y, y);", "y, b);"):
        code = source.source().replace(
            "ieee::negative(b), y, 1.0f), y, y);", f"ieee::negative(b), y, 1.0f), {step}"
        )
        found.append(
            stored(nvrtc.disassemble(nvrtc.compile_text(code + OURS, 90, options)[0])["reciprocal_of"])
        )
    assert found[0] != found[1]
