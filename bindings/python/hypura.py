"""hypura in Python: run GGUF language models that do not fit in memory.

    import hypura

    with hypura.Model("model.gguf", memory="8G") as model, model.session() as session:
        for piece in session.stream("Why is the sky blue?"):
            print(piece, end="", flush=True)

This single file calls libhypura through ctypes and needs no other packages. It loads the library that the linker finds, or the
file that HYPURA_SHARED_LIBRARY names. Any thread may use a model, but only one thread at a time a session; session.cancel() may be
called from any. The C headers, include/hypura/*.h, describe each function and field in full.
"""
from __future__ import annotations

import ctypes
import ctypes.util
import enum
import json
import os
import re
import threading
from ctypes import POINTER, byref, c_bool, c_char, c_char_p, c_double, c_float, c_int, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

__all__ = ["Answer", "Endpoint", "Error", "Event", "Finish", "Model", "ModelInfo", "Places", "Plan", "Rate", "Session", "Speed", "ToolCall", "inspect",
           "inspect_hosts", "plan", "set_log", "version"]

Prompt = Union[str, Sequence[int], Sequence[Mapping[str, Any]]]

# ---- the library ---------------------------------------------------------------------------------------------------------------


def _load() -> ctypes.CDLL:
    named = os.environ.get("HYPURA_SHARED_LIBRARY")
    names = [named] if named else ["libhypura.so.0", "libhypura.0.dylib", ctypes.util.find_library("hypura")]
    failures = []
    for name in names:
        try:
            if name:
                return ctypes.CDLL(name)
        except OSError as error:
            failures.append(str(error))
    raise ImportError("hypura: cannot load libhypura; install it, or set HYPURA_SHARED_LIBRARY to its file: " + "; ".join(failures))


class _Struct(ctypes.Structure):
    """Sets struct_size, if the struct has it."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        if hasattr(type(self), "struct_size"):
            self.struct_size = ctypes.sizeof(self)


class _Error(_Struct):
    _fields_ = [("status", c_int), ("message", c_char * 512)]


class _Adapter(_Struct):
    _fields_ = [("path", c_char_p), ("scale", c_float)]


_ON_LOAD = ctypes.CFUNCTYPE(c_bool, c_void_p, c_uint64, c_uint64)


class _Options(_Struct):
    _fields_ = [("struct_size", c_size_t), ("memory_bytes", c_uint64), ("gpu", c_char_p), ("gpu_memory_bytes", c_uint64),
                ("threads", c_uint32), ("context_tokens", c_uint32), ("sessions", c_uint32), ("chunk_tokens", c_uint32),
                ("kv_type", c_char_p), ("text_only", c_bool), ("adapters", POINTER(_Adapter)), ("adapter_count", c_size_t),
                ("drafting", c_int), ("draft_path", c_char_p), ("forget_prefixes", c_bool), ("prefix_memory_bytes", c_uint64),
                ("prefix_folder", c_char_p), ("prefix_folder_bytes", c_uint64), ("on_load", _ON_LOAD), ("on_load_context", c_void_p),
                ("forget_usage", c_bool), ("gpu_fixed", c_bool), ("reader", c_char_p), ("reads_in_flight", c_uint32),
                ("prefetch", c_int), ("cache_policy", c_char_p), ("no_fill", c_bool), ("no_overlap", c_bool), ("trace_path", c_char_p),
                ("mirror_paths", POINTER(c_char_p)), ("mirror_count", c_size_t), ("gpus_memory_bytes", POINTER(c_uint64)),
                ("gpu_count", c_size_t), ("load_behind", c_bool)]


class _Info(_Struct):
    _fields_ = [("path", c_char_p), ("name", c_char_p), ("architecture", c_char_p), ("title", c_char_p), ("weight_bytes", c_uint64),
                ("layers", c_uint32), ("embedding_width", c_uint32), ("vocabulary_size", c_uint32), ("trained_tokens", c_uint32),
                ("experts", c_uint32), ("experts_used", c_uint32), ("generates", c_bool), ("judges", c_bool),
                ("has_template", c_bool), ("threads", c_uint32), ("gpu", c_char_p), ("files", c_uint32)]


class _Plan(_Struct):
    _fields_ = [("mode", c_char_p), ("reason", c_char_p), ("bound", c_char_p), ("tokens_per_second", c_double),
                ("tokens_per_second_with_one_more_gib", c_double), ("bytes_read_per_token", c_double), ("measured", c_bool),
                ("memory_bytes", c_uint64), ("smallest_memory_bytes", c_uint64), ("gpu_bytes", c_uint64), ("ram_bytes", c_uint64),
                ("storage_bytes", c_uint64), ("kv_bytes", c_uint64), ("cache_bytes", c_uint64), ("context_tokens", c_uint32),
                ("sessions", c_uint32), ("chunk_tokens", c_uint32), ("even_tokens_per_second", c_double)]


class _Chat(_Struct):
    _fields_ = [("struct_size", c_size_t), ("messages", c_char_p), ("tools", c_char_p), ("variables", c_char_p), ("exact", c_bool),
                ("whole", c_bool)]


class _Bias(_Struct):
    _fields_ = [("token", c_int32), ("bias", c_float)]


class _Sampling(_Struct):
    _fields_ = [("struct_size", c_size_t), ("seed", c_uint64), ("temperature", c_float), ("dynamic_range", c_float),
                ("dynamic_exponent", c_float), ("top_k", c_uint32), ("top_p", c_float), ("min_p", c_float), ("typical_p", c_float),
                ("top_n_sigma", c_float), ("xtc_probability", c_float), ("xtc_threshold", c_float), ("repeat_penalty", c_float),
                ("frequency_penalty", c_float), ("presence_penalty", c_float), ("repeat_last_tokens", c_int32),
                ("dry_multiplier", c_float), ("dry_base", c_float), ("dry_allowed_tokens", c_uint32), ("dry_last_tokens", c_int32),
                ("dry_breakers", POINTER(c_char_p)), ("dry_breaker_count", c_size_t), ("mirostat", c_uint32),
                ("mirostat_tau", c_float), ("mirostat_eta", c_float), ("biases", POINTER(_Bias)), ("bias_count", c_size_t),
                ("steps", c_char_p)]


class _Request(_Struct):
    _fields_ = [("struct_size", c_size_t), ("chat", POINTER(_Chat)), ("text", c_char_p), ("text_size", c_size_t),
                ("tokens", POINTER(c_int32)), ("token_count", c_size_t), ("follows", c_bool), ("plain_text", c_bool),
                ("sampling", POINTER(_Sampling)), ("form", c_int), ("form_text", c_char_p), ("max_tokens", c_uint32),
                ("stops", POINTER(c_char_p)), ("stop_count", c_size_t), ("ignore_end", c_bool), ("context_tokens", c_uint32),
                ("shift", c_bool), ("shift_keep_tokens", c_uint32), ("as_written", c_bool), ("show_special", c_bool),
                ("want_tokens", c_bool), ("top_logprobs", c_uint32)]


class _Logprob(_Struct):
    _fields_ = [("token", c_int32), ("logprob", c_float)]


class _Event(_Struct):
    _fields_ = [("kind", c_int), ("text", c_void_p), ("size", c_size_t), ("name", c_char_p), ("call_index", c_uint32),
                ("token", c_int32), ("logprob", c_float), ("top", POINTER(_Logprob)), ("top_count", c_size_t)]


class _Result(_Struct):
    _fields_ = [("finish", c_int), ("end_token", c_int32), ("stop", c_char_p), ("prompt_tokens", c_uint32),
                ("cached_tokens", c_uint32), ("answer_tokens", c_uint32), ("reasoning_tokens", c_uint32),
                ("prompt_seconds", c_double), ("answer_seconds", c_double)]


class _Statistics(_Struct):
    _fields_ = [("struct_size", c_size_t), ("load_seconds", c_double), ("prompt_tokens", c_uint64), ("answer_tokens", c_uint64),
                ("prompt_seconds", c_double), ("answer_seconds", c_double), ("answer_passes", c_uint64),
                ("drafted_tokens", c_uint64), ("accepted_tokens", c_uint64), ("read_bytes", c_uint64), ("loaded_bytes", c_uint64),
                ("demanded_bytes", c_uint64), ("prefetched_bytes", c_uint64), ("filled_bytes", c_uint64), ("wasted_bytes", c_uint64),
                ("answer_read_bytes", c_uint64), ("expert_hits", c_uint64), ("expert_misses", c_uint64), ("expert_moves", c_uint64),
                ("prefetches", c_uint64), ("prefetches_used", c_uint64), ("rows_wanted", c_uint64), ("rows_cached", c_uint64),
                ("stall_seconds", c_double), ("memory_bytes", c_uint64), ("largest_memory_bytes", c_uint64), ("peak_bytes", c_uint64),
                ("code_bytes_on_top", c_uint64), ("gpu_bytes", c_uint64), ("ram_bytes", c_uint64), ("storage_bytes", c_uint64),
                ("prefix_bytes", c_uint64), ("prefix_tokens", c_uint64), ("prefix_read_bytes", c_uint64),
                ("prefix_written_bytes", c_uint64), ("bound", c_char_p), ("share_of_limit", c_double),
                ("share_of_both_limits", c_double), ("over_profile", c_double), ("drive_bytes_per_second", c_double)]


class _Places(_Struct):
    _fields_ = [("gpu_bytes", c_uint64), ("ram_bytes", c_uint64), ("cached_bytes", c_uint64), ("storage_bytes", c_uint64)]


class _Measure(_Struct):
    _fields_ = [("struct_size", c_size_t), ("prompt_tokens", c_uint32), ("answer_tokens", c_uint32), ("held_tokens", c_uint32),
                ("sequences", c_uint32), ("rounds", c_uint32), ("seed", c_uint64), ("meter_memory", c_bool)]


class _Rate(_Struct):
    _fields_ = [("median", c_double), ("least", c_double), ("most", c_double)]


class _Speed(_Struct):
    _fields_ = [("struct_size", c_size_t), ("prompt_tokens_per_second", _Rate), ("answer_tokens_per_second", _Rate),
                ("memory_bytes_per_second", _Rate), ("share_of_memory", _Rate), ("answer_bytes_per_token", _Rate)]


class _Inspection(_Struct):
    _fields_ = [("struct_size", c_size_t), ("tensors", c_bool), ("layers", c_bool), ("one_layer", c_bool), ("layer", c_uint32),
                ("preset", c_char_p), ("preset_type", c_char_p)]


class _EndpointState(_Struct):
    _fields_ = [("struct_size", c_size_t), ("name", c_char_p), ("mode", c_char_p), ("memory_bytes", c_uint64), ("sessions", c_uint32),
                ("context_tokens", c_uint32), ("tokens", c_uint64), ("read_bytes", c_uint64)]


_ON_REPLY = ctypes.CFUNCTYPE(None, c_void_p, c_uint32, POINTER(c_char), c_size_t)
_LOG = ctypes.CFUNCTYPE(None, c_void_p, c_int, c_char_p)
_ON_LOGITS = ctypes.CFUNCTYPE(c_bool, c_void_p, c_size_t, POINTER(c_float))
_ERROR, _TOKENS, _SIZE, _TEXT = POINTER(_Error), POINTER(c_int32), POINTER(c_size_t), POINTER(c_void_p)

_library = _load()
for _name, _result, _arguments in (
        ("version", c_char_p, []),
        ("free", None, [c_void_p]),
        ("set_log", None, [_LOG, c_void_p, c_int]),
        ("open", c_int, [POINTER(c_void_p), c_char_p, POINTER(_Options), _ERROR]),
        ("close", None, [c_void_p]),
        ("get_info", POINTER(_Info), [c_void_p]),
        ("get_plan", POINTER(_Plan), [c_void_p]),
        ("plan_file", c_int, [POINTER(POINTER(_Plan)), c_char_p, POINTER(_Options), _ERROR]),
        ("plan_free", None, [POINTER(_Plan)]),
        ("set_memory", c_int, [c_void_p, c_uint64, _ERROR]),
        ("is_lost", c_bool, [c_void_p]),
        ("get_statistics", None, [c_void_p, POINTER(_Statistics)]),
        ("get_places", c_size_t, [c_void_p, POINTER(_Places), c_size_t]),
        ("take_used_experts", c_size_t, [c_void_p, POINTER(c_bool), c_size_t]),
        ("end_trace", c_int, [c_void_p, _ERROR]),
        ("tokenize", c_int, [c_void_p, c_char_p, c_size_t, c_uint32, POINTER(_TOKENS), _SIZE, _ERROR]),
        ("count_tokens", c_int, [c_void_p, c_char_p, c_size_t, c_uint32, _SIZE, _ERROR]),
        ("detokenize", c_int, [c_void_p, _TOKENS, c_size_t, c_bool, _TEXT, _SIZE, _ERROR]),
        ("render_chat", c_int, [c_void_p, POINTER(_Chat), _TEXT, _SIZE, _ERROR]),
        ("template_source", c_char_p, [c_void_p]),
        ("default_sampling", None, [POINTER(_Sampling)]),
        ("session_open", c_int, [POINTER(c_void_p), c_void_p, _ERROR]),
        ("session_close", None, [c_void_p]),
        ("cancel", None, [c_void_p, c_bool]),
        ("session_tokens", _TOKENS, [c_void_p, _SIZE]),
        ("session_fork", c_int, [POINTER(c_void_p), c_void_p, _ERROR]),
        ("session_save", c_int, [c_void_p, c_char_p, _ERROR]),
        ("session_load", c_int, [c_void_p, c_char_p, _SIZE, _ERROR]),
        ("session_file", c_int, [c_void_p, POINTER(c_int), _ERROR]),
        ("session_result", POINTER(_Result), [c_void_p]),
        ("start", c_int, [c_void_p, POINTER(_Request), _ERROR]),
        ("next", c_int, [c_void_p, c_int, POINTER(POINTER(_Event)), _ERROR]),
        ("stop", None, [c_void_p]),
        ("measure_speed", c_int, [c_void_p, POINTER(_Measure), POINTER(_Speed), _ERROR]),
        ("embed", c_int, [c_void_p, _TOKENS, c_size_t, POINTER(c_float), _ERROR]),
        ("logits", c_int, [c_void_p, _TOKENS, c_size_t, c_size_t, _ON_LOGITS, c_void_p, _ERROR]),
        ("inspect", c_int, [c_char_p, POINTER(_Options), POINTER(_Inspection), _TEXT, _ERROR]),
        ("inspect_hosts", c_int, [c_char_p, c_char_p, POINTER(_Options), POINTER(_Inspection), _TEXT, _ERROR]),
        ("endpoint_open", c_int, [POINTER(c_void_p), c_char_p, POINTER(_Options), _ERROR]),
        ("endpoint_close", None, [c_void_p]),
        ("endpoint_ask", c_int, [c_void_p, c_char_p, c_char_p, c_size_t, _ON_REPLY, c_void_p, _ERROR]),
        ("endpoint_get_state", None, [c_void_p, POINTER(_EndpointState)]),
        ("endpoint_set_memory", c_int, [c_void_p, c_uint64, _ERROR]),
        ("judge", c_int, [c_void_p, c_char_p, c_size_t, c_char_p, c_size_t, POINTER(c_float), _ERROR])):
    _function = getattr(_library, "hypura_" + _name)
    _function.restype, _function.argtypes = _result, _arguments

# ---- errors, versions, logs ----------------------------------------------------------------------------------------------------

_STATUS = ("ok", "argument", "io", "format", "unsupported", "memory", "cancelled", "device", "host")


class Error(Exception):
    """An error of the library: a message, and a status: "argument", "io", "format", "unsupported", "memory", "cancelled", "device" or
    "host"."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


def _call(name: str, *arguments: Any) -> None:
    error = _Error()
    status = getattr(_library, "hypura_" + name)(*arguments, byref(error))
    if status:
        raise Error(_STATUS[status] if 0 <= status < len(_STATUS) else "unknown", error.message.decode("utf-8", "replace"))


def version() -> str:
    """The version of the loaded library."""
    return _library.hypura_version().decode()


_log: Any = None


def set_log(sink: Optional[Callable[[str, str], None]], least: str = "warning") -> None:
    """Calls sink(level, message) for each message of level least and above: "debug", "info", "warning" or "error". None turns
    messages off. Do not call it while a model is open."""
    global _log
    levels = ("debug", "info", "warning", "error")
    if least not in levels:
        raise ValueError(f"least is {least!r}: expected one of {', '.join(levels)}")
    _log = _LOG(lambda context, level, message: sink(levels[level], message.decode("utf-8", "replace")) if sink else None) if sink else _LOG()
    _library.hypura_set_log(_log, None, levels.index(least))


# ---- options -------------------------------------------------------------------------------------------------------------------


def _bytes(size: Union[int, str, None]) -> int:
    """8589934592 or "8G"."""
    if size is None or isinstance(size, int):
        return size or 0
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", size)
    if not found:
        raise ValueError(f"{size!r} is not a size, such as 8G or 512M")
    return int(float(found[1]) * 1024 ** "KMGT".index(found[2]) * 1024) if found[2] else int(float(found[1]))


def _path(path: Union[str, "os.PathLike[str]", None]) -> Optional[bytes]:
    return None if path is None else os.fsencode(path)


def _switch(value: Optional[bool]) -> int:
    return 0 if value is None else 1 if value else 2


def _options(given: Dict[str, Any], kept: List[Any]) -> _Options:
    """kept: receives the objects that the struct points to; keep it as long as the struct is used."""
    options = _Options()
    sizes = {"memory": "memory_bytes", "gpu_memory": "gpu_memory_bytes", "prefix_memory": "prefix_memory_bytes",
             "prefix_folder_size": "prefix_folder_bytes"}
    numbers = {"threads": "threads", "context": "context_tokens", "sessions": "sessions", "chunk": "chunk_tokens",
               "reads_in_flight": "reads_in_flight"}
    texts = ("gpu", "kv_type", "reader", "cache_policy")
    paths = {"draft": "draft_path", "prefix_folder": "prefix_folder", "trace": "trace_path"}
    switches = ("drafting", "prefetch")
    flags = ("text_only", "forget_prefixes", "forget_usage", "gpu_fixed", "no_fill", "no_overlap", "load_behind")
    for name, value in given.items():
        if name == "gpu_memory" and isinstance(value, (list, tuple)):
            bounds = (c_uint64 * len(value))(*[_bytes(size) for size in value])
            kept.append(bounds)
            options.gpus_memory_bytes, options.gpu_count = bounds, len(value)
        elif name == "mirrors":
            copies = (c_char_p * len(value))(*[_path(path) for path in value])
            kept.append(copies)
            options.mirror_paths, options.mirror_count = copies, len(value)
        elif name in sizes:
            setattr(options, sizes[name], _bytes(value))
        elif name in numbers:
            setattr(options, numbers[name], value or 0)
        elif name in texts:
            setattr(options, name, None if value is None else str(value).encode())
        elif name in paths:
            setattr(options, paths[name], _path(value))
        elif name in switches:
            setattr(options, name, _switch(value))
        elif name in flags:
            setattr(options, name, bool(value))
        elif name == "adapters":
            pairs = [(item, 1.0) if isinstance(item, (str, os.PathLike)) else item for item in value]
            array = (_Adapter * len(pairs))(*[_Adapter(path=_path(path), scale=scale) for path, scale in pairs])
            kept.append(array)
            options.adapters, options.adapter_count = array, len(pairs)
        elif name == "on_load":
            function = _ON_LOAD(lambda context, done, whole: value(done, whole) is not False)
            kept.append(function)
            options.on_load = function
        else:
            raise TypeError(f"there is no option {name!r}")
    return options


def _record(struct: ctypes.Structure) -> Dict[str, Any]:
    values = {name: getattr(struct, name) for name, *_ in struct._fields_ if name != "struct_size"}
    return {name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value for name, value in values.items()}


@dataclass(frozen=True)
class ModelInfo:
    """Facts about a model; include/hypura/model.h describes the fields."""
    path: str
    name: str
    architecture: str
    title: str
    weight_bytes: int
    layers: int
    embedding_width: int
    vocabulary_size: int
    trained_tokens: int
    experts: int
    experts_used: int
    generates: bool
    judges: bool
    has_template: bool
    threads: int
    gpu: Optional[str]
    files: int


@dataclass(frozen=True)
class Plan:
    """Where the weights are kept on this machine, and the expected speed; include/hypura/plan.h describes the fields."""
    mode: str
    reason: str
    bound: str
    tokens_per_second: float
    tokens_per_second_with_one_more_gib: float
    bytes_read_per_token: float
    measured: bool
    memory_bytes: int
    smallest_memory_bytes: int
    gpu_bytes: int
    ram_bytes: int
    storage_bytes: int
    kv_bytes: int
    cache_bytes: int
    context_tokens: int
    sessions: int
    chunk_tokens: int
    even_tokens_per_second: float


@dataclass(frozen=True)
class Places:
    """Bytes of one layer's weights by place."""
    gpu_bytes: int
    ram_bytes: int
    cached_bytes: int
    storage_bytes: int


@dataclass(frozen=True)
class Rate:
    """A speed, measured in several rounds."""
    median: float
    least: float
    most: float


@dataclass(frozen=True)
class Speed:
    """The measured speed of a model; include/hypura/evaluate.h describes the fields."""
    prompt_tokens_per_second: Rate
    answer_tokens_per_second: Rate
    memory_bytes_per_second: Rate
    share_of_memory: Rate
    answer_bytes_per_token: Rate


def plan(path: Union[str, "os.PathLike[str]"], **options: Any) -> Plan:
    """The plan that Model(path, **options) would make. Reads only the file's header."""
    kept: List[Any] = []
    out = POINTER(_Plan)()
    _call("plan_file", byref(out), _path(path), byref(_options(options, kept)))
    try:
        return Plan(**_record(out.contents))
    finally:
        _library.hypura_plan_free(out)


def _described(function: str, *arguments: Any) -> Dict[str, Any]:
    text = c_void_p()
    _call(function, *arguments, byref(text))
    try:
        return json.loads(ctypes.string_at(text.value or 0))
    finally:
        _library.hypura_free(text)


def inspect(path: Union[str, "os.PathLike[str]", None] = None, *, tensors: bool = False, layers: bool = False, layer: Optional[int] = None,
            preset: Optional[str] = None, preset_type: Optional[str] = None, **options: Any) -> Dict[str, Any]:
    """The contents of a file and the plan of Model(path, **options), in full, as "hypura inspect --json" prints them. preset: inspect
    this geometry of "hypura synth --list" instead of a file."""
    kept: List[Any] = []
    what = _Inspection(tensors=tensors, layers=layers, one_layer=layer is not None, layer=layer or 0,
                       preset=preset.encode() if preset else None, preset_type=preset_type.encode() if preset_type else None)
    return _described("inspect", _path(path), byref(_options(options, kept)), byref(what))


def inspect_hosts(path: Union[str, "os.PathLike[str]", None], hosts: Union[str, "os.PathLike[str]"], *, preset: Optional[str] = None,
                  **options: Any) -> Dict[str, Any]:
    """The plan for the hosts that a file describes, as "hypura inspect --hosts FILE --json" prints it."""
    kept: List[Any] = []
    what = _Inspection(preset=preset.encode() if preset else None)
    return _described("inspect_hosts", _path(path), _path(hosts), byref(_options(options, kept)), byref(what))


# ---- answers -------------------------------------------------------------------------------------------------------------------


class Finish(enum.Enum):
    """Why an answer ended."""
    END = 0
    STOP = 1
    TOOL_CALLS = 2
    MAX_TOKENS = 3
    CONTEXT = 4
    CANCELLED = 5


@dataclass(frozen=True)
class ToolCall:
    name: str
    arguments: Dict[str, Any]
    index: int


@dataclass(frozen=True)
class Event:
    """A part of an answer. kind is "content", "reasoning", "tool_call" or "token"."""
    kind: str
    text: str = ""
    call: Optional[ToolCall] = None
    token: Optional[int] = None
    logprob: Optional[float] = None
    top: Tuple[Tuple[int, float], ...] = ()


@dataclass
class Answer:
    """A whole answer with its statistics."""
    text: str = ""
    reasoning: str = ""
    calls: List[ToolCall] = field(default_factory=list)
    finish: Finish = Finish.END
    stop: Optional[str] = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    answer_tokens: int = 0
    reasoning_tokens: int = 0
    prompt_seconds: float = 0.0
    answer_seconds: float = 0.0


_KINDS = ("content", "reasoning", "tool_call", "token", "end")
_END = 4
_TURN = 200  # milliseconds to wait before checking for Ctrl-C


def _event_of(event: _Event) -> Event:
    text = ctypes.string_at(event.text, event.size).decode("utf-8", "replace") if event.text else ""
    kind = _KINDS[event.kind] if 0 <= event.kind < len(_KINDS) else "unknown"
    if kind == "tool_call":
        return Event(kind, text, ToolCall(event.name.decode(), json.loads(text or "{}"), event.call_index))
    if kind == "token":
        top = tuple((event.top[i].token, event.top[i].logprob) for i in range(event.top_count))
        return Event(kind, text, token=event.token, logprob=event.logprob, top=top)
    return Event(kind, text)


def _texts(items: Sequence[str], kept: List[Any]) -> Any:
    array = (c_char_p * len(items))(*[item.encode() for item in items])
    kept.append(array)
    return array


def _sampling(given: Dict[str, Any], kept: List[Any]) -> _Sampling:
    sampling = _Sampling()
    _library.hypura_default_sampling(byref(sampling))
    names = {name for name, *_ in _Sampling._fields_} - {"struct_size", "dry_breakers", "dry_breaker_count", "biases", "bias_count", "steps"}
    for name, value in given.items():
        if name in names:
            setattr(sampling, name, value)
        elif name == "dry_breakers":
            sampling.dry_breakers, sampling.dry_breaker_count = _texts(value, kept), len(value)
        elif name == "logit_bias":
            array = (_Bias * len(value))(*[_Bias(token=token, bias=bias) for token, bias in value.items()])
            kept.append(array)
            sampling.biases, sampling.bias_count = array, len(value)
        elif name == "steps":
            sampling.steps = value if value is None else ";".join([value] if isinstance(value, str) else value).encode()
        else:
            raise TypeError(f"there is no sampling setting {name!r}")
    return sampling


def _chat(messages: Iterable[Mapping[str, Any]], tools: Optional[Sequence[Mapping[str, Any]]], variables: Optional[Mapping[str, Any]],
          **flags: bool) -> _Chat:
    return _Chat(messages=json.dumps(list(messages)).encode(), tools=json.dumps(list(tools)).encode() if tools else None,
                 variables=json.dumps(dict(variables)).encode() if variables else None, **flags)


def _ints(tokens: Sequence[int]) -> Any:
    return (c_int32 * len(tokens))(*tokens)


class Session:
    """A conversation, used by one thread at a time."""

    def __init__(self, model: "Model", handle: Optional[c_void_p] = None) -> None:
        self._handle = handle or c_void_p()
        self.model = model
        self._running = False
        if handle is None:
            _call("session_open", byref(self._handle), model._live())
        model._sessions.append(self)

    def close(self) -> None:
        """Ends the session, and its answer if one is running."""
        if self._handle:
            _library.hypura_session_close(self._handle)
            self._handle = c_void_p()
            if self in self.model._sessions:
                self.model._sessions.remove(self)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def _live(self) -> c_void_p:
        if not self._handle:
            raise ValueError("this session is closed")
        return self._handle

    # -- answers

    def events(self, prompt: Prompt, *, tools: Optional[Sequence[Mapping[str, Any]]] = None,
               variables: Optional[Mapping[str, Any]] = None, raw: bool = False, follows: bool = False, max_tokens: int = 0,
               stops: Sequence[str] = (), json_schema: Optional[Mapping[str, Any]] = None, json_object: bool = False,
               grammar: Optional[str] = None, ignore_end: bool = False, context: int = 0, shift: bool = False, shift_keep: int = 0,
               as_written: bool = False, show_special: bool = False, want_tokens: bool = False, top_logprobs: int = 0,
               **sampling: Any) -> Iterator[Event]:
        """Yields the answer as it is written; leaving the loop ends it. prompt is the user's text, a list of messages as in
        OpenAI's API, or tokens. With raw, the model continues the text. sampling: temperature, top_p, seed and the other fields
        of include/hypura/sampling.h. include/hypura/generate.h describes the other arguments."""
        kept: List[Any] = []
        request = _Request(follows=follows, max_tokens=max_tokens, ignore_end=ignore_end, context_tokens=context, shift=shift,
                           shift_keep_tokens=shift_keep, as_written=as_written, show_special=show_special,
                           want_tokens=want_tokens or top_logprobs > 0, top_logprobs=top_logprobs)
        if isinstance(prompt, str) and (raw or follows):
            data = prompt.encode()
            request.text, request.text_size = data, len(data)
        elif isinstance(prompt, str) or (len(prompt) > 0 and isinstance(prompt[0], Mapping)):
            messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            chat = _chat(messages, tools, variables)  # type: ignore[arg-type]
            kept.append(chat)
            request.chat = ctypes.pointer(chat)
        else:
            request.tokens, request.token_count = _ints(prompt), len(prompt)  # type: ignore[arg-type]
        forms = [(1, None)] * json_object + [(2, json.dumps(json_schema))] * (json_schema is not None) + [(3, grammar)] * (grammar is not None)
        if len(forms) > 1:
            raise ValueError("json_object, json_schema and grammar exclude each other")
        for form, text in forms:
            request.form, request.form_text = form, None if text is None else text.encode()
        if stops:
            request.stops, request.stop_count = _texts(stops, kept), len(stops)
        settings = _sampling(sampling, kept)
        request.sampling = ctypes.pointer(settings)
        _call("start", self._live(), byref(request))
        self._running = True
        return self._follow()

    def _next(self, wait: int) -> Optional[_Event]:
        event = POINTER(_Event)()
        try:
            _call("next", self._live(), wait, byref(event))
        except Error:
            self._running = False
            raise
        return event.contents if event else None

    def _follow(self) -> Iterator[Event]:
        try:
            while True:
                event = self._next(_TURN)
                if event is None:
                    continue
                if event.kind == _END:
                    self._running = False
                    if _library.hypura_session_result(self._live()).contents.finish == Finish.CANCELLED.value:
                        raise Error("cancelled", "the answer was cancelled")
                    return
                yield _event_of(event)
        finally:
            if self._running and self._handle:
                _library.hypura_stop(self._handle)
                while self._running:
                    last = self._next(-1)
                    self._running = last is not None and last.kind != _END

    def stream(self, prompt: Prompt, **settings: Any) -> Iterator[str]:
        """Yields the text of the answer piece by piece. settings: as in events()."""
        events = self.events(prompt, **settings)
        return (event.text for event in events if event.kind == "content")

    def answer(self, prompt: Prompt, **settings: Any) -> Answer:
        """The whole answer. settings: as in events()."""
        answer = Answer()
        for event in self.events(prompt, **settings):
            if event.kind == "content":
                answer.text += event.text
            elif event.kind == "reasoning":
                answer.reasoning += event.text
            elif event.call:
                answer.calls.append(event.call)
        return self._finish(answer)

    def _finish(self, answer: Answer) -> Answer:
        result = _library.hypura_session_result(self._live())
        if result:
            for name, value in _record(result.contents).items():
                if name == "finish":
                    answer.finish = Finish(value)
                elif hasattr(answer, name):
                    setattr(answer, name, value)
        return answer

    @property
    def result(self) -> Answer:
        """How the last answer ended, without its text."""
        return self._finish(Answer())

    def cancel(self, cancel: bool = True) -> None:
        """Ends the current call as cancelled, and each later one until cancel(False). Any thread may call it."""
        _library.hypura_cancel(self._live(), cancel)

    def fileno(self) -> int:
        """A descriptor for select and event loops: readable while events are available."""
        descriptor = c_int()
        _call("session_file", self._live(), byref(descriptor))
        return descriptor.value

    # -- its tokens

    @property
    def tokens(self) -> List[int]:
        count = c_size_t()
        tokens = _library.hypura_session_tokens(self._live(), byref(count))
        return tokens[:count.value] if count.value else []

    def fork(self) -> "Session":
        """Another session that holds the same tokens, without computing them again."""
        handle = c_void_p()
        _call("session_fork", byref(handle), self._live())
        return Session(self.model, handle)

    def save(self, path: Union[str, "os.PathLike[str]"]) -> None:
        _call("session_save", self._live(), _path(path))

    def load(self, path: Union[str, "os.PathLike[str]"]) -> int:
        """Restores a saved session. Returns how many of its tokens need not be computed again."""
        count = c_size_t()
        _call("session_load", self._live(), _path(path), byref(count))
        return count.value

    # -- results other than answers

    def _tokens_of(self, text: Union[str, Sequence[int]]) -> List[int]:
        return self.model.tokenize(text) if isinstance(text, str) else list(text)

    def embed(self, text: Union[str, Sequence[int]]) -> List[float]:
        """The embedding of a text: a vector of length 1."""
        tokens = self._tokens_of(text)
        out = (c_float * self.model.info.embedding_width)()
        _call("embed", self._live(), _ints(tokens), len(tokens), out)
        return list(out)

    def logits(self, text: Union[str, Sequence[int]], first: int = 0) -> List[List[float]]:
        """The logits after each token from index first on: one list per token, as long as the vocabulary."""
        tokens, width, rows = self._tokens_of(text), self.model.info.vocabulary_size, []  # type: Tuple[List[int], int, List[List[float]]]

        def take(context: Any, index: int, logits: Any) -> bool:
            rows.append(logits[:width])
            return True

        _call("logits", self._live(), _ints(tokens), len(tokens), first, _ON_LOGITS(take), None)
        return rows

    def judge(self, query: str, text: str) -> float:
        """Scores how well a text answers a query. The model must be a re-ranker."""
        score = c_float()
        a, b = query.encode(), text.encode()
        _call("judge", self._live(), a, len(a), b, len(b), byref(score))
        return score.value

    def measure_speed(self, *, prompt_tokens: int = 512, answer_tokens: int = 128, held_tokens: int = 0, sequences: int = 1,
                      rounds: int = 3, seed: int = 0, meter_memory: bool = False) -> Speed:
        """Measures how fast the model runs, with random tokens, like "hypura bench"."""
        how = _Measure(prompt_tokens=prompt_tokens, answer_tokens=answer_tokens, held_tokens=held_tokens, sequences=sequences,
                       rounds=rounds, seed=seed, meter_memory=meter_memory)
        out = _Speed()
        _call("measure_speed", self._live(), byref(how), byref(out))
        return Speed(**{name: Rate(**_record(rate)) for name, rate in _record(out).items()})


class Model:
    """A GGUF file, opened once and shared by all threads.

    Options, which include/hypura/options.h describes:
    - sizes (bytes, or text such as "8G"): memory, gpu_memory, prefix_memory, prefix_folder_size. gpu_memory may also be a list with
      one size per device of gpu, 0 for the default.
    - numbers: threads, context, sessions, chunk, reads_in_flight
    - text: gpu, kv_type, reader, cache_policy
    - paths: draft, prefix_folder, trace; mirrors (a list of paths); adapters (a list of paths, or of pairs of path and scale)
    - True, False, or None to let the library decide by measuring: drafting, prefetch
    - flags: text_only, forget_prefixes, forget_usage, gpu_fixed, no_fill, no_overlap, load_behind
    - on_load: a function of the bytes read and the bytes to read. Returning False cancels the loading.
    """

    def __init__(self, path: Union[str, "os.PathLike[str]"], **options: Any) -> None:
        self._handle = c_void_p()
        self._sessions: List[Session] = []
        self._kept: List[Any] = []  # with load_behind, on_load is called after opening
        _call("open", byref(self._handle), _path(path), byref(_options(options, self._kept)))

    def close(self) -> None:
        """Closes the model and its sessions."""
        for session in list(self._sessions):
            session.close()
        _library.hypura_close(self._handle)
        self._handle = c_void_p()

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def _live(self) -> c_void_p:
        if not self._handle:
            raise ValueError("this model is closed")
        return self._handle

    def session(self) -> Session:
        return Session(self)

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(**_record(_library.hypura_get_info(self._live()).contents))

    @property
    def plan(self) -> Optional[Plan]:
        """The plan made at opening; None with text_only."""
        found = _library.hypura_get_plan(self._live())
        return Plan(**_record(found.contents)) if found else None

    @property
    def statistics(self) -> Dict[str, Any]:
        """The statistics, with the names of include/hypura/statistics.h."""
        out = _Statistics()
        _library.hypura_get_statistics(self._live(), byref(out))
        return _record(out)

    @property
    def places(self) -> List[Places]:
        """Where the weights are now: one row per layer, then one for the weights outside layers."""
        room = self.info.layers + 1
        rows = (_Places * room)()
        count = _library.hypura_get_places(self._live(), rows, room)
        return [Places(**_record(row)) for row in rows[:count]]

    def take_used_experts(self) -> List[List[bool]]:
        """Which experts were used since the last call: per layer, one flag per expert."""
        layers, experts = self.info.layers, self.info.experts
        used = (c_bool * (layers * experts))()
        count = _library.hypura_take_used_experts(self._live(), used, len(used))
        return [list(used[at:at + experts]) for at in range(0, count, experts)] if count else []

    def end_trace(self) -> None:
        """Completes the file of the option trace, and reports any error in writing it."""
        _call("end_trace", self._live())

    @property
    def lost(self) -> bool:
        """Whether the model's GPU was lost."""
        return _library.hypura_is_lost(self._live())

    def set_memory(self, size: Union[int, str]) -> None:
        """Changes the memory budget, even while the model answers; 0: chosen as at opening."""
        _call("set_memory", self._live(), _bytes(size))

    def answer(self, prompt: Prompt, **settings: Any) -> Answer:
        """One answer, in its own session."""
        with self.session() as session:
            return session.answer(prompt, **settings)

    # -- text

    def tokenize(self, text: str, *, special: bool = True, parse_special: bool = False) -> List[int]:
        """Converts text to tokens. special: add the tokens that the model expects at the beginning and end; parse_special: convert text
        such as <|im_end|> to control tokens."""
        data, tokens, count = text.encode(), _TOKENS(), c_size_t()
        _call("tokenize", self._live(), data, len(data), special + 2 * parse_special, byref(tokens), byref(count))
        try:
            return tokens[:count.value] if count.value else []
        finally:
            _library.hypura_free(tokens)

    def count_tokens(self, text: str, *, special: bool = True, parse_special: bool = False) -> int:
        data, count = text.encode(), c_size_t()
        _call("count_tokens", self._live(), data, len(data), special + 2 * parse_special, byref(count))
        return count.value

    def _text(self, function: str, *arguments: Any) -> bytes:
        text, size = c_void_p(), c_size_t()
        _call(function, self._live(), *arguments, byref(text), byref(size))
        try:
            return ctypes.string_at(text, size.value) if size.value else b""
        finally:
            _library.hypura_free(text)

    def detokenize(self, tokens: Sequence[int], *, show_special: bool = False) -> bytes:
        """Converts tokens to bytes, which may begin or end within a character."""
        return self._text("detokenize", _ints(tokens), len(tokens), show_special)

    def render(self, messages: Iterable[Mapping[str, Any]], *, tools: Optional[Sequence[Mapping[str, Any]]] = None,
               variables: Optional[Mapping[str, Any]] = None, exact: bool = False, whole: bool = False) -> str:
        """The prompt that the model's template makes from a chat."""
        chat = _chat(messages, tools, variables, exact=exact, whole=whole)
        return self._text("render_chat", byref(chat)).decode("utf-8", "replace")

    @property
    def template(self) -> str:
        return _library.hypura_template_source(self._live()).decode("utf-8", "replace")


# ---- requests in a server's JSON -----------------------------------------------------------------------------------------------


class Endpoint:
    """Answers the requests that "hypura serve" answers, without a network. Options: as in Model; sessions is how many answers are
    computed at the same time. Any thread may use it; requests submitted at the same time are computed together."""

    def __init__(self, path: Union[str, "os.PathLike[str]"], **options: Any) -> None:
        self._handle = c_void_p()
        _call("endpoint_open", byref(self._handle), _path(path), byref(_options(options, [])))

    def close(self) -> None:
        """Answers all pending requests at once, with status 503, and closes the endpoint."""
        handle, self._handle = self._handle, c_void_p()
        _library.hypura_endpoint_close(handle)

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def _live(self) -> c_void_p:
        if not self._handle:
            raise ValueError("this endpoint is closed")
        return self._handle

    def ask(self, path: str, body: Mapping[str, Any]) -> Tuple[int, Any]:
        """The reply to a POST of the body to this path, such as "/v1/chat/completions": the status, 200 if all went well, and the
        JSON."""
        text, answer, done = json.dumps(body).encode(), [], threading.Event()

        def take(context: Any, status: int, reply: Any, size: int) -> None:
            answer[:] = [(status, ctypes.string_at(reply, size))]
            done.set()

        kept = _ON_REPLY(take)
        _call("endpoint_ask", self._live(), path.encode(), text, len(text), kept, None)
        while not done.wait(_TURN / 1000):
            continue
        status, reply = answer[0]
        return status, json.loads(reply)

    @property
    def state(self) -> Dict[str, Any]:
        """The endpoint's state, with the names of include/hypura/endpoint.h."""
        out = _EndpointState()
        _library.hypura_endpoint_get_state(self._live(), byref(out))
        return _record(out)

    def set_memory(self, size: Union[int, str]) -> None:
        """Changes the memory budget, even while the model answers; 0: chosen as at opening."""
        _call("endpoint_set_memory", self._live(), _bytes(size))
