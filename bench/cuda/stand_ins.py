"""Libraries that look like CUDA's and cuDNN's to ONNX Runtime's CUDA provider, so that it runs where there is no GPU.

The provider then registers its kernels, partitions, fuses and lays out a graph as it would on a GPU, and a run goes
through its allocations, copies and launches; nothing is computed, the outputs are zeros. Every function of the
libraries returns 0, success, except for the few below. They describe a device of compute capability 9.0, allocate
memory of the host for memory of the device, at most `STAND_IN_BYTES` of the environment, refuse while launches
are recorded what CUDA refuses then, and count (`counts`). cuDNN wants no scratch memory here, and what is
uploaded is not kept. Needs gcc and nm.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from dataclasses import dataclass, fields
from pathlib import Path

from ffrt.errors import ProviderError

VERSIONED = ("libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13")
"""Libraries whose functions carry the library's name as their version."""
RUNTIME = VERSIONED[0]
DRIVER, RANDOM, DNN = "libcuda.so.1", "libcurand.so.10", "libcudnn.so"
_DNN_NAME = re.compile(rb"\0(cudnn[A-Z][A-Za-z]+(?:_v[0-9]+)?)(?=\0)")
"""A function of cuDNN, which the provider opens itself and asks for functions by their names."""


@dataclass(frozen=True)
class Counts:
    """What a process has asked of the stand-ins.

    Bytes of device memory that it holds and the most that it held, allocations, copies to the device and to the host,
    launches of kernels, and of recordings.
    """

    held: int
    most: int
    allocations: int
    to_device: int
    to_host: int
    launches: int
    replays: int


_HEAD = """
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
enum { HELD, MOST, ALLOCATIONS, TO_DEVICE, TO_HOST, LAUNCHES, REPLAYS, COUNTS };
static int give(void **p, size_t n) { *p = calloc(1, n ? n : 1); return *p ? 0 : 2; }
static int handle(void **p) { return give(p, 64); }
static int drop(void *p) { free(p); return 0; }
static long counted[COUNTS];
static int recording;
static int allocate(void **p, size_t n) {
  if (recording) return 900;
  const char *limit = getenv("STAND_IN_BYTES");
  if ((limit && counted[HELD] + n > strtoul(limit, 0, 10)) || give(p, n)) return 2;
  long held = __atomic_add_fetch(&counted[HELD], malloc_usable_size(*p), __ATOMIC_SEQ_CST);
  if (held > counted[MOST]) counted[MOST] = held;
  counted[ALLOCATIONS]++;
  return 0;
}
static int release(void *p) {
  if (p) __atomic_sub_fetch(&counted[HELD], malloc_usable_size(p), __ATOMIC_SEQ_CST);
  return drop(p);
}
static int copy(void *to, const void *from, size_t n, int kind) {
  if (kind == 1) counted[TO_DEVICE]++;
  if (kind == 2) counted[TO_HOST]++;
  if (kind == 0 || kind == 2) memcpy(to, from, n);
  return 0;
}
static const size_t memory = 80000000000ul;
static void put_int(char *at, int value) { memcpy(at, &value, sizeof value); }
static void put_size(char *at, size_t value) { memcpy(at, &value, sizeof value); }
"""
_PROPERTIES = """int cudaGetDeviceProperties(char *p, int device) {
  memset(p, 0, 1008);
  strcpy(p, "stand-in for a GPU");
  put_size(p + 288, memory);                                                              /* totalGlobalMem */
  put_size(p + 296, 49152); put_int(p + 304, 65536); put_int(p + 308, 32);   /* sharedMem, regs, warpSize */
  put_int(p + 320, 1024); put_int(p + 324, 1024); put_int(p + 328, 1024); put_int(p + 332, 64); /* threads */
  put_int(p + 336, 2147483647); put_int(p + 340, 65535); put_int(p + 344, 65535);                  /* grid */
  put_int(p + 360, 9);                                                              /* compute capability 9.0 */
  put_int(p + 384, 132);                                                                 /* multiprocessors */
  return 0;
}"""
_ATTRIBUTE = """int cudaDeviceGetAttribute(int *value, int which, int device) {
  switch (which) {
    case 8: *value = 49152; break;   /* shared memory of a block */
    case 16: *value = 132; break;    /* multiprocessors */
    case 75: *value = 9; break;      /* compute capability, major and minor */
    case 76: *value = 0; break;
    case 97: *value = 232448; break; /* shared memory of a block that asks for more */
    default: *value = 1;
  }
  return 0;
}"""
_ONE_LINERS = {
    "cudaGetDeviceCount": "(int *n) { *n = 1; return 0; }",
    "cudaGetDevice": "(int *n) { *n = 0; return 0; }",
    "cudaMalloc": "(void **p, size_t n) { return allocate(p, n); }",
    "cudaMallocHost": "(void **p, size_t n) { return give(p, n); }",
    "cudaHostAlloc": "(void **p, size_t n, unsigned flags) { return give(p, n); }",
    "cudaFree": "(void *p) { return release(p); }",
    "cudaFreeHost": "(void *p) { return drop(p); }",
    "cudaMemcpy": "(void *to, const void *from, size_t n, int kind) "
    "{ return recording ? 900 : copy(to, from, n, kind); }",
    "cudaMemcpyAsync": "(void *to, const void *from, size_t n, int kind, void *s) { return copy(to, from, n, kind); }",
    "cudaMemGetInfo": "(size_t *free, size_t *total) { *free = *total = memory; return 0; }",
    "cudaRuntimeGetVersion": "(int *v) { *v = 13000; return 0; }",
    "cudaDriverGetVersion": "(int *v) { *v = 13000; return 0; }",
    "cudaPointerGetAttributes": "(char *a, const void *p) { memset(a, 0, 24); return 0; }",
    "cudaFuncGetAttributes": "(char *a, const void *f) { memset(a, 0, 64); return 0; }",
    "cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags": "(int *n) { *n = 1; return 0; }",
    "cudaStreamIsCapturing": "(void *s, int *c) { *c = recording; return 0; }",
    "cudaStreamSynchronize": "(void *s) { return recording ? 900 : 0; }",
    "cudaStreamBeginCapture": "(void *s, int mode) { recording = 1; return 0; }",
    "cudaStreamEndCapture": "(void *s, void **graph) { recording = 0; return handle(graph); }",
    "cudaGraphInstantiate": "(void **graph) { return handle(graph); }",
    "cudaGraphLaunch": "() { counted[REPLAYS]++; return 0; }",
    **dict.fromkeys(("__cudaLaunchKernel", "cudaLaunchKernelExC"), "() { counted[LAUNCHES]++; return 0; }"),
    "cudaEventElapsedTime": "(float *ms) { *ms = 1; return 0; }",
    **dict.fromkeys(
        ("cudaStreamCreate", "cudaStreamCreateWithFlags", "cudaEventCreate", "cudaEventCreateWithFlags"),
        "(void **p) { return handle(p); }",
    ),
    **dict.fromkeys(("cublasCreate_v2", "cublasLtCreate", "cudnnCreate"), "(void **p) { return handle(p); }"),
    "cudnnBackendCreateDescriptor": "(int kind, void **p) { return handle(p); }",
    "cudnnBackendDestroyDescriptor": "(void *p) { return drop(p); }",
    "cudnnBackendGetAttribute": "(void *d, int which, int type, long wanted, long *count, void *out) "
    "{ if (count) *count = 1; if (out && wanted > 0 && type != 15) memset(out, 0, type == 3 || type == 5 ? 8 : 4); "
    "return 0; }",  # one of everything, all 0; type 15 are descriptors, which are there already
}
_NAMES = (
    "cudaGetErrorString",
    "cudaGetErrorName",
    "cublasGetStatusName",
    "cublasGetStatusString",
    "cudnnGetErrorString",
)
_VERSIONS = {"cudnnGetVersion": 92000, "cudnnGetCudartVersion": 13000}
_COUNTS = "void stand_in_counts(long *out) { memcpy(out, counted, sizeof counted); }"


def body(name: str) -> str:
    """The function `name` in C."""
    if name == "cudaGetDeviceProperties":
        return _PROPERTIES
    if name == "cudaDeviceGetAttribute":
        return _ATTRIBUTE
    if name in _VERSIONS:
        return f"size_t {name}() {{ return {_VERSIONS[name]}; }}"
    if name in _NAMES:
        return f'const char *{name}(int code) {{ return code == 2 ? "out of memory" : "stand-in"; }}'
    if name == "__cudaRegisterFatBinary":
        return f"void **{name}(void *binary) {{ static void *handles[4]; return handles; }}"
    return f"int {name}{_ONE_LINERS.get(name, '() { return 0; }')}"


def build_stand_ins(provider: Path, out: Path) -> None:
    """Write into `out` the libraries that `provider`, ONNX Runtime's CUDA library, loads.

    Raises ProviderError without gcc and nm, or where they fail.
    """
    if shutil.which("gcc") is None or shutil.which("nm") is None:
        raise ProviderError(
            "expected gcc and nm, which build the stand-ins for CUDA, got none; on Debian or Ubuntu type "
            "sudo apt install gcc"
        )
    for library, names in wanted_functions(provider).items():
        source = out / f"{library}.c"
        own = [_COUNTS] if library == RUNTIME else []
        source.write_text(_HEAD + "\n".join([*map(body, names), *own]) + "\n")
        call = ["gcc", "-w", "-shared", "-fPIC", "-O1", str(source), "-o", str(out / library), f"-Wl,-soname,{library}"]
        if library in VERSIONED:
            versions = out / f"{library}.map"
            versions.write_text(f"{library} {{ global: *; }};\n")
            call.append(f"-Wl,--version-script={versions}")
        _run(call)


def wanted_functions(provider: Path) -> dict[str, list[str]]:
    """Library -> the functions that `provider` imports from it; those without a version are the driver's."""
    found: dict[str, list[str]] = {library: [] for library in (*VERSIONED, DRIVER, RANDOM)}
    for line in _run(["nm", "-D", "--undefined-only", str(provider)]).splitlines():
        name, _, version = line.split()[-1].partition("@")
        library = version.lstrip("@")
        if library in found:
            found[library].append(name)
        elif not library and name.startswith("cu"):
            found[RANDOM if name.startswith("curand") else DRIVER].append(name)
    found[DNN] = sorted({name.decode() for name in _DNN_NAME.findall(provider.read_bytes())})
    return found


def counts() -> Counts:
    """What this process has asked of the stand-ins so far; OSError where it does not run over them."""
    numbers = (ctypes.c_long * len(fields(Counts)))()
    ctypes.CDLL(RUNTIME).stand_in_counts(numbers)
    return Counts(*numbers)


def _run(call: list[str]) -> str:
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ProviderError(f"stand-ins for CUDA could not be built: {' '.join(call[:2])} said {done.stderr[-400:]}")
    return done.stdout
