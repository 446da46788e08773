"""The conduit for n = 9 to 16 on a GPU: the CPU's LLVM code, one matrix to a thread, as PTX.

`looped.py` with its matrices in global memory, where the numbers of neighbouring threads lie side
by side: one thread's local memory would be 45 kB, and the driver reserves that for all the threads
a GPU could ever hold. Triton's compiler did not come to an end with it. Given tensors on a CPU, the
same code is compiled for the processor: that is how it is tested where there is no GPU.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llvmlite import binding, ir  # type: ignore[import-untyped]

from frictionstore.extract.conduit import exact, looped
from frictionstore.extract.conduit.constants import ConduitConstants
from frictionstore.extract.conduit.kernels.lanes import FLOAT32, FLOAT64, LaneOperations, Lanes

if TYPE_CHECKING:
    from torch import Tensor

THREADS = 128  # of a block
BLOCKS = 2  # at once on a multiprocessor: so many threads' matrices lie in memory
PTX = "sm_75", "+ptx63"  # what the driver translates for any later GPU

_BYTE, _INT32, _INT64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_POINTER = FLOAT32.as_pointer()


class _Room:
    """The memory of one thread among `threads`, as far as a program has asked for it."""

    def __init__(self, base: ir.Value, thread: ir.Value, threads: ir.Value) -> None:
        self.base = base
        self.thread = thread
        self.threads = threads
        self.size = 0  # bytes for each thread


class _Numbers:
    """Numbers of one matrix: those of one place and all threads are neighbours."""

    def __init__(self, builder: ir.IRBuilder, room: _Room, count: int, kind: ir.Type) -> None:
        self.builder = builder
        self.room = room
        self.kind = kind
        size = 8 if kind == FLOAT64 else 4
        with builder.goto_entry_block():
            first = builder.mul(room.threads, _INT64(room.size))
            base = builder.gep(builder.bitcast(room.base, _BYTE.as_pointer()), [first])
            self._base = builder.bitcast(base, kind.as_pointer())
        room.size += -(-count * size // 8) * 8

    def _address(self, place: int | ir.Value) -> ir.Value:
        builder = self.builder
        row = place if isinstance(place, ir.Value) else _INT64(place)
        index = builder.add(builder.mul(row, self.room.threads), self.room.thread)
        address = builder.gep(self._base, [index])
        return builder.bitcast(address, ir.VectorType(self.kind, 1).as_pointer())

    def load(self, place: int | ir.Value) -> Lanes:
        return Lanes(self.builder, self.builder.load(self._address(place)))

    def store(self, place: int | ir.Value, x: Lanes) -> None:
        self.builder.store(x.vector, self._address(place))


class _ThreadOperations(LaneOperations):
    """The operations of `looped.py` for a thread, whose matrices are in its room."""

    def __init__(self, builder: ir.IRBuilder, room: _Room) -> None:
        super().__init__(builder, 1)
        self.room = room

    def memory(self, count: int, like: Lanes) -> Any:
        return _Numbers(self.builder, self.room, count, like.vector.type.element)


ROUNDED = ("friction", "settle", "slot", "eigenvalues")
PACKET = ("eigenvectors", "char_coeffs", "refinement_residual")
EXACT = ("friction_exact", "settle_exact")
_KINDS = {"settle": _BYTE, "slot": _BYTE, "settle_exact": _BYTE, "friction_exact": FLOAT64}


def _results(what: str) -> tuple[str, ...]:
    return {"exact": EXACT, "maps": ROUNDED, "packet": (*ROUNDED, *PACKET)}[what]


class _Results:
    """The arrays that a thread puts what it found for one matrix into."""

    def __init__(
        self, builder: ir.IRBuilder, arrays: dict[str, ir.Value], number: ir.Value
    ) -> None:
        self.builder = builder
        self.arrays = arrays
        self.number = number

    def put(self, name: str, row: int, place: int | ir.Value, x: ir.Value) -> None:
        """Store a number at a place of this matrix's row of `row` numbers."""
        builder, kind = self.builder, _KINDS.get(name, FLOAT32)
        place = place if isinstance(place, ir.Value) else _INT64(place)
        index = builder.add(builder.mul(self.number, _INT64(row)), place)
        base = builder.bitcast(self.arrays[name], kind.as_pointer())
        builder.store(x, builder.gep(base, [index]))


def _number(builder: ir.IRBuilder, x: Lanes) -> ir.Value:
    return builder.extract_element(x.vector, _INT32(0))


def _store_exact(
    builder: ir.IRBuilder, into: _Results, fields: dict[str, list[Lanes]], n: int, rounds: int
) -> None:
    measured = builder.fcmp_ordered(
        ">", _number(builder, fields["measured_exact"][0]), FLOAT64(0.0)
    )
    for i in range(n):
        friction, settle = (_number(builder, fields[name][i]) for name in EXACT)
        into.put("friction_exact", n, i, builder.select(measured, friction, FLOAT64(float("nan"))))
        settle = builder.select(measured, settle, FLOAT64(float(rounds)))
        into.put("settle_exact", n, i, builder.fptoui(settle, _BYTE))


def _store_rounded(
    builder: ir.IRBuilder, into: _Results, fields: dict[str, list[Lanes]], n: int, rounds: int
) -> None:
    measured = builder.fcmp_ordered(">", _number(builder, fields["measured"][0]), FLOAT32(0.0))

    def or_nan(x: Lanes) -> ir.Value:
        return builder.select(measured, _number(builder, x), FLOAT32(float("nan")))

    for i in range(n):
        rank = builder.select(measured, _number(builder, fields["rank"][i]), FLOAT32(float(i)))
        mode = builder.sub(_INT64(n - 1), builder.fptoui(rank, _INT64))
        settle = _number(builder, fields["settle"][i])
        settle = builder.select(measured, settle, FLOAT32(float(rounds)))
        into.put("friction", n, mode, or_nan(fields["friction"][i]))
        into.put("eigenvalues", n, mode, or_nan(fields["eigenvalues"][i]))
        into.put("settle", n, mode, builder.fptoui(settle, _BYTE))
        into.put("slot", n, mode, _BYTE(i))
        if "eigenvectors" in fields:
            into.put("char_coeffs", n, i, or_nan(fields["char_coeffs"][i]))
            for k in range(n):
                place = builder.add(mode, _INT64(k * n))
                into.put("eigenvectors", n * n, place, or_nan(fields["eigenvectors"][k * n + i]))
    if "eigenvectors" in fields:
        into.put("refinement_residual", 1, 0, or_nan(fields["refinement_residual"][0]))


def _body(
    builder: ir.IRBuilder, room: _Room, given: Sequence[ir.Value],
    n: int, what: str, constants: ConduitConstants,
) -> None:  # fmt: skip
    """Code for every matrix that is a thread's own: its own number, and every `threads`-th on."""
    matrices, count, *arrays = given
    before = builder.block
    head, turn, after = (builder.append_basic_block(name) for name in ("head", "turn", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    number = builder.phi(_INT64)
    number.add_incoming(room.thread, before)
    builder.cbranch(builder.icmp_signed("<", number, count), turn, after)
    builder.position_at_end(turn)

    op = _ThreadOperations(builder, room)
    A = _Numbers(builder, room, n * n, FLOAT32)
    first = builder.mul(number, _INT64(n * n))

    def copy(e: ir.Value, state: list[Lanes]) -> list[Lanes]:
        address = builder.gep(matrices, [builder.add(first, e)])
        vector = builder.bitcast(address, ir.VectorType(FLOAT32, 1).as_pointer())
        A.store(e, Lanes(builder, builder.load(vector)))
        return state

    op.repeat_indexed(n * n, [], copy)
    into = _Results(builder, dict(zip(_results(what), arrays, strict=True)), number)
    if what == "exact":
        entries = [[A.load(i * n + j) for j in range(n)] for i in range(n)]
        found = exact.measure(op, entries, constants)
        _store_exact(builder, into, found, n, constants.iterations)
    else:
        found = looped.measure(op, A, n, constants, what == "packet")
        _store_rounded(builder, into, found, n, constants.iterations)

    number.add_incoming(builder.add(number, room.threads), builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    builder.ret_void()


def _register(module: ir.Module, name: str) -> ir.Function:
    full = f"llvm.nvvm.read.ptx.sreg.{name}"
    kind = ir.FunctionType(_INT32, [])
    return module.globals.get(full) or ir.Function(module, kind, full)


def code(n: int, what: str, constants: ConduitConstants, gpu: bool) -> tuple[str, int]:
    """LLVM's assembly of the function `measure`, and the bytes of memory that a thread needs.

    Parameters
    ----------
    n : int in [9, 16]
    what : {"maps", "packet", "exact"}
        What it finds: friction, settle, slot and eigenvalues; those and the rest of `Packet`; or
        the exact maps.
    constants : ConduitConstants
    gpu : bool
        Whether a thread's number and the number of threads are the GPU's, or the function's last
        arguments. The others are addresses of the room, the matrices, their count, and an address
        for each result.
    """
    module = ir.Module(f"conduit_{n}_{what}")
    arrays = len(_results(what))
    given = [_POINTER, _POINTER, _INT64, *[_POINTER] * arrays, *([] if gpu else [_INT64] * 2)]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), given), "measure")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    if gpu:
        function.calling_convention = "ptx_kernel"
        block, size, inner, blocks = (
            builder.zext(builder.call(_register(module, name), []), _INT64)
            for name in ("ctaid.x", "ntid.x", "tid.x", "nctaid.x")
        )
        thread = builder.add(builder.mul(block, size), inner)
        threads = builder.mul(blocks, size)
    else:
        thread, threads = function.args[-2:]
    # What `goto_entry_block` adds has to come behind these.
    start = builder.append_basic_block("start")
    builder.branch(start)
    builder.position_at_end(start)
    room = _Room(function.args[0], thread, threads)
    _body(builder, room, function.args[1 : 3 + arrays], n, what, constants)
    return str(module), room.size


def _parsed(text: str, triple: str, machine: Any) -> Any:
    """The module as it was written.

    With LLVM's passes, which move and unroll, the assembler took up to twice as long and a thread
    up to three times as much local memory (n = 9, compute capability 9.0).
    """
    module = binding.parse_assembly(text)
    module.triple = triple
    module.data_layout = str(machine.target_data)
    return module


@functools.cache
def ptx(n: int, what: str, constants: ConduitConstants) -> tuple[str, int]:
    """The kernel `measure` as PTX, and the bytes of memory that each of its threads needs."""
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    text, size = code(n, what, constants, gpu=True)
    triple = "nvptx64-nvidia-cuda"
    processor, features = PTX
    machine = binding.Target.from_triple(triple).create_target_machine(
        cpu=processor, features=features, opt=2
    )
    return machine.emit_assembly(_parsed(text, triple, machine)), size


class _Compiled:
    """The same function for the processor, called for one thread after the other."""

    def __init__(self, n: int, what: str, constants: ConduitConstants) -> None:
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        text, self.size = code(n, what, constants, gpu=False)
        machine = binding.Target.from_default_triple().create_target_machine(opt=2, jit=True)
        module = _parsed(text, binding.get_default_triple(), machine)
        self._engine = binding.create_mcjit_compiler(module, machine)
        self._engine.finalize_object()
        pointers = [ctypes.c_void_p] * len(_results(what))
        signature = ctypes.CFUNCTYPE(
            None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, *pointers,
            ctypes.c_int64, ctypes.c_int64,
        )  # fmt: skip
        self.measure = signature(self._engine.get_function_address("measure"))


compiled = functools.cache(_Compiled)


class _Driver:
    """The CUDA driver, through which PTX becomes a kernel of a device."""

    def __init__(self) -> None:
        import sys

        name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
        self._library = ctypes.CDLL(name)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the driver; its refusal is a RuntimeError that names both."""
        status = getattr(self._library, name)(*arguments)
        if status:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(status, ctypes.byref(text))
            said = text.value.decode() if text.value else f"status {status}"
            raise RuntimeError(f"{name} of the CUDA driver failed: {said}")


_driver = functools.cache(_Driver)


@functools.cache
def _kernel(n: int, what: str, constants: ConduitConstants, device: int) -> tuple[Any, int]:
    """The kernel on a device, which has to be the current one, and its bytes for each thread."""
    text, size = ptx(n, what, constants)
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    _driver().call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(text.encode()))
    _driver().call("cuModuleGetFunction", ctypes.byref(function), module, b"measure")
    return function, size


def _room(blocks: int, size: int, device: Any) -> Tensor:
    """Memory for the threads of so many blocks, or of half as many where there is not so much.

    Threads take one matrix after the other, so that any number of blocks measures them all.
    """
    import torch

    while True:
        try:
            return torch.empty(blocks * THREADS * size, dtype=torch.uint8, device=device)
        except torch.cuda.OutOfMemoryError:
            if blocks == 1:
                raise
        blocks //= 2


def _launch(A: Tensor, results: list[Tensor], kernel: tuple[Any, int]) -> None:
    import torch

    function, size = kernel
    processors = torch.cuda.get_device_properties(A.device).multi_processor_count
    room = _room(min(-(-len(A) // THREADS), BLOCKS * processors), size, A.device)
    values = [
        *[ctypes.c_void_p(x.data_ptr()) for x in (room, A)],
        ctypes.c_int64(len(A)),
        *[ctypes.c_void_p(x.data_ptr()) for x in results],
    ]
    addresses = (ctypes.c_void_p * len(values))(*[ctypes.addressof(x) for x in values])
    stream = torch.cuda.current_stream(A.device).cuda_stream
    blocks = room.numel() // (THREADS * size)
    _driver().call(
        "cuLaunchKernel", function, blocks, 1, 1, THREADS, 1, 1, 0,
        ctypes.c_void_p(stream), addresses, None,
    )  # fmt: skip
    # Kernels of one stream follow each other: freed, the room is given to later ones of it only.


def _on_processor(A: Tensor, results: list[Tensor], kernel: _Compiled, threads: int = 3) -> None:
    import torch

    room = torch.empty(threads * kernel.size, dtype=torch.uint8)
    addresses = [x.data_ptr() for x in results]
    for thread in range(threads):
        kernel.measure(room.data_ptr(), A.data_ptr(), len(A), *addresses, thread, threads)


def measure(A: Tensor, want: Sequence[str], constants: ConduitConstants) -> dict[str, Tensor]:
    """Measure a batch of matrices, with mode 0 the largest eigenvalue.

    Parameters
    ----------
    A : Tensor of shape (B, n, n), float32, on a CUDA device
        Symmetric matrices, n in 9..16, of which both triangles are read.
    want : sequence of str
        Names of `Packet` fields.
    constants : ConduitConstants

    Returns
    -------
    dict of Tensor
        The fields asked for, on the device of `A`, with the bits of `reference.measure` and
        `reference.measure_exact`.

    Raises
    ------
    RuntimeError
        If the CUDA driver refuses the kernel.
    """
    import torch

    B, n = int(A.shape[0]), int(A.shape[1])
    rounded = set(want) - set(EXACT)
    programs = ["exact"] if set(want) & set(EXACT) else []
    if rounded:
        programs.append("maps" if rounded <= set(ROUNDED) else "packet")
    shapes = {"eigenvectors": (B, n, n), "refinement_residual": (B,)}
    kinds = {_BYTE: torch.uint8, FLOAT64: torch.float64}
    fields: dict[str, Tensor] = {}
    matrices = A.contiguous()
    for what in programs:
        results = [
            torch.empty(
                shapes.get(name, (B, n)),
                dtype=kinds.get(_KINDS.get(name), torch.float32),
                device=A.device,
            )
            for name in _results(what)
        ]
        fields.update(zip(_results(what), results, strict=True))
        if B and A.device.type == "cpu":
            _on_processor(matrices, results, compiled(n, what, constants))
        elif B:
            with torch.cuda.device_of(A):
                index = torch.cuda.current_device()
                _launch(matrices, results, _kernel(n, what, constants, index))
    return {name: fields[name] for name in want}
