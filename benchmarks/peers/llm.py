"""The Llama of transformers on PyTorch, with random weights: the peer of benchmarks.llm.

It runs in a process of its own, which keeps the model and what is under way from one call to the
next, so that nothing is compiled twice. What makes PyTorch fast: its own attention kernels, fused
AdamW and autocast to bfloat16 on a GPU, `torch.compile`, a cache of fixed size where it generates.
"""

import copy
import gc
import time

import numpy as np
import torch
import transformers

_kept = {}  # what lasts from one call to the next


def load(config: dict, weights: dict[str, np.ndarray], threads: int) -> dict:
    """Take a model's shape and its weights by their Hugging Face names; returns what runs here."""
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**config, attn_implementation="sdpa")
    )
    there = {name: torch.tensor(value) for name, value in weights.items()}
    missing, unexpected = model.load_state_dict(there, strict=False)
    if set(missing) != {"lm_head.weight"} or unexpected:
        raise AssertionError(f"other weights: {missing} missing, {unexpected} unexpected")
    model.tie_weights()
    model.generation_config = transformers.GenerationConfig(pad_token_id=0)  # no end of text
    _kept["base"], _kept["device"] = model, "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.cuda.get_device_name() if _cuda() else f"cpu, {threads} threads"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {**versions, "pytorch_device": device}


def logits(tokens: np.ndarray, half: bool) -> np.ndarray:
    """Of all tokens, float32; `half`: computed in bfloat16."""
    forget()
    with torch.inference_mode():
        return _model(half)(_ids(tokens), use_cache=False).logits.float().cpu().numpy()


def training_begin(tokens: np.ndarray, compiled: bool) -> dict:
    """Two steps with the batch: the loss before them, their seconds, and what memory it takes."""
    forget()
    model = _model(half=False).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-5, betas=(0.9, 0.98), weight_decay=0.01, fused=_cuda()
    )
    called = torch.compile(model) if compiled else model
    ids = _ids(tokens)

    def step():
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=_cuda()):
            loss = called(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    def begin():
        start = time.perf_counter()
        loss = step().item()
        first = time.perf_counter() - start
        step()
        _wait()
        peak = torch.cuda.max_memory_allocated() / 2**20 if _cuda() else None
        return {"loss": loss, "first_s": first, "peak_mib": peak}

    return _begun(step, begin)


def training_seconds(steps: int) -> float:
    """Of that many steps."""
    start = time.perf_counter()
    for _ in range(steps):
        _kept["call"]()
    _wait()
    return time.perf_counter() - start


def generation_begin(prompts: np.ndarray, new: int, half: bool, compiled: bool) -> dict:
    """The tokens after the prompts, and the seconds of the first time."""
    forget()
    model, ids = _model(half), _ids(prompts)
    there = torch.ones_like(ids)
    how = {"cache_implementation": "static"} if compiled else {}
    if compiled and not _cuda():  # to see that it runs
        how["compile_config"] = transformers.CompileConfig()
        how["compile_config"]._compile_all_devices = True

    def call(new):
        asked = dict(max_new_tokens=new, min_new_tokens=new, do_sample=False, use_cache=True)
        return model.generate(ids, attention_mask=there, **asked, **how)[:, ids.shape[1] :]

    def begin():
        start = time.perf_counter()
        tokens = call(new).cpu().numpy()
        first = time.perf_counter() - start
        call(new)
        call(1)
        _wait()
        return {"tokens": tokens, "first_s": first}

    return _begun(call, begin)


def generation_seconds(new: int) -> float:
    """Of `new` tokens after each prompt."""
    start = time.perf_counter()
    _kept["call"](new)
    _wait()
    return time.perf_counter() - start


def forget() -> None:
    """Let go of what is under way, and of its memory."""
    _kept.pop("call", None)
    torch.compiler.reset()
    gc.collect()
    if _cuda():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _begun(call, begin) -> dict:
    """What `begin` finds, or the `error`; then `call` is what is under way."""
    try:
        found = begin()
    except Exception as error:  # whatever a compiler may raise
        return {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
    _kept["call"] = call
    return found


def _model(half: bool):
    """A copy on the device. Not `.to(bfloat16)`, which would round the angles of RoPE too."""
    model = copy.deepcopy(_kept["base"]).eval()
    if half:
        for part in model.parameters():
            part.data = part.data.bfloat16()
    return model.to(_kept["device"])


def _ids(tokens: np.ndarray):
    return torch.from_numpy(np.asarray(tokens, np.int64)).to(_kept["device"])


def _cuda() -> bool:
    return torch.cuda.is_available()


def _wait() -> None:
    if _cuda():
        torch.cuda.synchronize()
