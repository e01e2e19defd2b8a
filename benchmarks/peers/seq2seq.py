"""The encoder–decoder in plain PyTorch, and its cached beam search: the peer of benchmarks.seq2seq.

The same architecture as `synthjax.nn.seq2seq` before its first layer normalisation, with what makes
PyTorch fast: one product for queries, keys and values, its own attention kernels, fused AdamW, keys
and values of the source read once and shared by all guesses, no gradients while it decodes.
"""

import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from synthjax.nn.seq2seq import Architecture


def _norm(a: Architecture):
    return nn.LayerNorm(a.width, eps=1e-6)  # as Flax


def _split(x, heads):
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def _joined(x):
    return x.transpose(-3, -2).flatten(-2)


class Layer(nn.Module):
    """Self-attention, attention to the encoder where it decodes, feed-forward."""

    def __init__(self, a: Architecture, decodes: bool):
        super().__init__()
        self.heads = a.heads
        self.qkv, self.mixed = nn.Linear(a.width, 3 * a.width), nn.Linear(a.width, a.width)
        self.up = nn.Linear(a.width, a.feed_forward * a.width)
        self.down = nn.Linear(a.feed_forward * a.width, a.width)
        self.norms = nn.ModuleList([_norm(a) for _ in range(2 + decodes)])
        if decodes:
            self.ask, self.told = nn.Linear(a.width, a.width), nn.Linear(a.width, a.width)
            self.tell = nn.Linear(a.width, 2 * a.width)

    def read(self, memory):
        """Keys and values of what the encoder said."""
        return [_split(part, self.heads) for part in self.tell(memory).chunk(2, -1)]

    def rest(self, x, memory, there):
        """All but self-attention."""
        if memory is not None:
            q = _split(self.ask(self.norms[1](x)), self.heads)
            told = F.scaled_dot_product_attention(q, *memory, attn_mask=there)
            x = x + self.told(_joined(told))
        return x + self.down(F.gelu(self.up(self.norms[-1](x)), approximate="tanh"))

    def forward(self, x, mask=None, memory=None, there=None, causal=False):
        """All tokens at once."""
        q, k, v = (_split(part, self.heads) for part in self.qkv(self.norms[0](x)).chunk(3, -1))
        x = x + self.mixed(
            _joined(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal))
        )
        return self.rest(x, memory, there)

    def one(self, x, cache, t, memory, there):
        """Token t of every guess [b, k, width]; the cache is written in place."""
        b, k, _ = x.shape
        q, new_keys, new_values = (
            part.reshape(b * k, self.heads, 1, -1)
            for part in self.qkv(self.norms[0](x)).chunk(3, -1)
        )
        keys, values = cache
        keys[:, :, t : t + 1], values[:, :, t : t + 1] = new_keys, new_values
        found = F.scaled_dot_product_attention(q, keys[:, :, : t + 1], values[:, :, : t + 1])
        x = x + self.mixed(found.reshape(b, k, -1))
        return self.rest(x, memory, there)


class Seq2Seq(nn.Module):
    """Logits of target tokens given a source."""

    def __init__(self, a: Architecture):
        super().__init__()
        self.a = a
        self.source, self.target = (nn.Embedding(a.vocabulary, a.width) for _ in range(2))
        self.source_at = nn.Embedding(a.source_length, a.width)
        self.target_at = nn.Embedding(a.target_length, a.width)
        for table in (self.source, self.target, self.source_at, self.target_at):
            nn.init.normal_(table.weight, std=a.width**-0.5)
        self.encoder = nn.ModuleList([Layer(a, False) for _ in range(a.encoder_layers)])
        self.decoder = nn.ModuleList([Layer(a, True) for _ in range(a.decoder_layers)])
        self.encoder_norm, self.decoder_norm = (
            nn.LayerNorm(a.width, eps=1e-6),
            nn.LayerNorm(a.width, eps=1e-6),
        )
        self.bias = nn.Parameter(torch.zeros(a.vocabulary))

    def encode(self, source):
        """What the encoder says, and the mask of which tokens there are."""
        there = (source != self.a.pad)[:, None, None]
        x = self.source(source) + self.source_at.weight[: source.shape[1]]
        for layer in self.encoder:
            x = layer(x, there)
        return self.encoder_norm(x), there

    def out(self, x):
        """Logits."""
        return F.linear(self.decoder_norm(x), self.target.weight, self.bias)

    def forward(self, source, target):
        """Logits of the token after each of `target`."""
        memory, there = self.encode(source)
        x = self.target(target) + self.target_at.weight[: target.shape[1]]
        for layer in self.decoder:
            x = layer(x, None, layer.read(memory), there, causal=True)
        return self.out(x)

    @torch.inference_mode()
    def beam_search(self, source, k: int, bos: int, eos: int, length: int):
        """The k most probable guesses [b, k, length] and their log-probabilities, as synthjax's."""
        a, b, device = self.a, len(source), source.device
        memory, there = self.encode(source)
        memories = [layer.read(memory) for layer in self.decoder]
        shape = b * k, a.heads, length, a.width // a.heads
        caches = [
            [torch.zeros(shape, device=device) for _ in range(2)] for _ in range(a.decoder_layers)
        ]
        tokens = torch.full((b, k, length), a.pad, device=device)
        last = torch.full((b, k), bos, device=device)
        scores = torch.full((b, k), -torch.inf, device=device)
        scores[:, 0] = 0
        ended = torch.zeros((b, k), dtype=torch.bool, device=device)
        resting = torch.full((a.vocabulary,), -torch.inf, device=device)
        resting[a.pad] = 0
        first = k * torch.arange(b, device=device)[:, None]
        for t in range(length):
            x = self.target(last) + self.target_at.weight[t]
            for layer, cache, read in zip(self.decoder, caches, memories, strict=True):
                x = layer.one(x, cache, t, read, there)
            log_probs = self.out(x).log_softmax(-1)
            log_probs[..., a.pad] = -torch.inf
            if ended.any():
                log_probs = torch.where(ended[..., None], resting, log_probs)
            scores, at = (scores[..., None] + log_probs).flatten(1).topk(k)
            parent, last = at // a.vocabulary, at % a.vocabulary
            rows = (first + parent).flatten()
            caches = [[part[rows] for part in cache] for cache in caches]
            tokens = tokens.flatten(0, 1)[rows].view(b, k, length)
            tokens[:, :, t] = last
            ended = ended.flatten()[rows].view(b, k) | (last == eos)
            if ended.all():
                break
        return tokens, scores


def loaded(a: Architecture, params) -> Seq2Seq:
    """The model with the parameters of a synthjax one, as NumPy arrays."""

    def linear(part, name):
        return {f"{name}.weight": part["kernel"].T, f"{name}.bias": part["bias"]}

    def norm(part, name):
        return {f"{name}.weight": part["scale"], f"{name}.bias": part["bias"]}

    weights = {"bias": params["bias"]}
    for side, layers in (("source", "encoder"), ("target", "decoder")):
        weights[f"{side}.weight"] = params[side]["symbols"]["embedding"]
        weights[f"{side}_at.weight"] = params[side]["positions"]["embedding"]
        weights |= norm(params[f"{layers}_norm"], f"{layers}_norm")
        for i, layer in params[layers].items():
            for name, part in layer.items():
                if name != "norms":
                    weights |= linear(part, f"{layers}.{i}.{name}")
            for j, part in layer["norms"].items():
                weights |= norm(part, f"{layers}.{i}.norms.{j}")
    model = Seq2Seq(a).eval()
    model.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    return model


def guesses(a: Architecture, params, source, k: int, symbols, length: int):
    """Tokens and log-probabilities of a beam search with these parameters, as NumPy arrays."""
    source = torch.from_numpy(np.asarray(source, np.int64))
    found = loaded(a, params).beam_search(source, k, symbols.bos, symbols.eos, length)
    return tuple(part.numpy() for part in found)


def training_seconds(a: Architecture, source, target, steps: int, threads: int) -> float:
    """Seconds of that many steps of AdamW on the CPU, after two that do not count."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = Seq2Seq(a)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    source, target = (torch.from_numpy(np.asarray(ids, np.int64)) for ids in (source, target))

    def step():
        optimizer.zero_grad()
        logits = model(source, target[:, :-1])
        F.cross_entropy(
            logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=a.pad
        ).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    for _ in range(2):
        step()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return time.perf_counter() - start


def beam_seconds(a: Architecture, source, k: int, symbols, length: int, threads: int) -> float:
    """Seconds of a beam search on the CPU, after one that does not count."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = Seq2Seq(a).eval()
    source = torch.from_numpy(np.asarray(source, np.int64))
    for _ in range(2):
        start = time.perf_counter()
        model.beam_search(source, k, symbols.bos, symbols.eos, length)
        seconds = time.perf_counter() - start
    return seconds
