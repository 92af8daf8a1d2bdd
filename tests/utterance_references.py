"""The baselines that read single utterances, over one utterance in float64 PyTorch, written from the papers' equations and
from the choices that our docstrings tell, and none from our code.

A network is called as network(p, said, settings) -> (the feature that is classified, the logits). p: the parameters,
nested dicts of tensors. said[m]: [steps, feat_m], the real steps of a modality, none where it is missing: a mean over no
steps is zero, a recurrent network that reads none stays at its start, and no value is attended to."""

import itertools
import math

import torch
from dialogue_references import beside, layer_norm, linear, mean, position, recurrent


def relu_layers(p, x):
    for number in range(len(p["dense"])):
        x = torch.relu(linear(p["dense"][str(number)], x))
    return x


def mean_step(x):
    return x.mean(dim=0) if len(x) else x.new_zeros(x.shape[1])


def ends(kind, p, x):
    """The state after the last step, and beside it, where a second direction is, that one's after the first step."""
    width, both = p["recurrent"]["0"]["kernel"].shape[0], len(p["recurrent"]) == 2
    states = recurrent(kind, p, x, "both" if both else "past")
    return beside(states[-1][:width], states[0][width:]) if states else x.new_zeros(width * len(p["recurrent"]))


def classified(p, feature):
    return feature, linear(p["head"]["out"], feature)


def ef(p, said, settings):
    """One recurrent network over all modalities at every step of the longest one."""
    longest = max(len(x) for x in said.values())

    def brought(x):
        earlier = [t * len(x) // longest for t in range(longest)]
        return x[earlier] if len(x) else x.new_zeros(longest, x.shape[1])

    steps = beside(*(brought(x) for x in said.values()))
    return classified(p, relu_layers(p["hidden"], ends(settings.cell, p["recurrent"], steps)))


def lf_dnn(p, said, settings):
    """Layers of every modality, then of all of them."""
    each = [relu_layers(p["subnetworks"][m], mean_step(x)) for m, x in said.items()]
    return classified(p, relu_layers(p["fusion"], beside(*each)))


def with_one(z):
    return beside(z, z.new_ones(1))


def tfn(p, said, settings):
    """Zadeh et al. 2017, sections 4.1 to 4.3."""
    fused = torch.ones(1, dtype=torch.float64)
    for m, x in said.items():
        q = p["subnetworks"][m]
        z = relu_layers(q["layers"], ends("lstm", q["lstm"], x) if m == "text" else mean_step(x))
        fused = torch.outer(fused, with_one(z)).flatten()
    return classified(p, relu_layers(p["inference"], fused))


def lmf(p, said, settings):
    """Liu et al. 2018, equations 1 to 4: h = W Z + b, with the tensors Z and W made."""
    tensor = torch.ones(1, dtype=torch.float64)
    terms = [torch.ones(1, settings.fusion_width, dtype=torch.float64)] * settings.rank
    for m, x in said.items():
        q = p["subnetworks"][m]
        z = ends("lstm", q["lstm"], x) if m == "text" else relu_layers(q["layers"], mean_step(x))
        tensor = torch.outer(tensor, with_one(z)).flatten()
        factors = p["factors"][m]["kernel"]
        terms = [torch.einsum("ih,jh->ijh", w, f).flatten(0, 1) for w, f in zip(terms, factors, strict=True)]
    return classified(p, tensor @ sum(terms) + p["bias"])


def norms(p, x):
    return torch.stack([layer_norm(p, step) for step in x]) if len(x) else x


def attention(p, x, memory, heads):
    """Vaswani et al. 2017, section 3.2."""
    query, key, value = (
        linear(p[name], steps).chunk(heads, dim=-1)
        for name, steps in (("query", x), ("key", memory), ("value", memory))
    )
    shares = [torch.softmax(q @ k.T / math.sqrt(q.shape[1]), dim=1) for q, k in zip(query, key, strict=True)]
    return linear(p["out"], beside(*(share @ v for share, v in zip(shares, value, strict=True))))


def forward(p, x):
    return linear(p["mlp_out"], torch.relu(linear(p["mlp_in"], x)))


def convolved(p, x, taps):
    """Steps beyond the ends are zeros."""

    def step(t):
        return x[t] if 0 <= t < len(x) else x.new_zeros(x.shape[1])

    read = [beside(*(step(t + tap - taps // 2) for tap in range(taps))) for t in range(len(x))]
    return linear(p["dense"], torch.stack(read) if read else x.new_zeros(0, taps * x.shape[1]))


def mult_transformer(p, z, source, heads):
    """Tsai et al. 2019, section 3.2. Without a source it attends to itself."""
    for number in range(len(p["layers"])):
        q = p["layers"][str(number)]
        own = norms(q["norm"], z)
        memory = own if source is None else norms(q["source_norm"], source)
        z = attention(q["attention"], own, memory, heads) + own
        own = norms(q["mlp_norm"], z)
        z = forward(q, own) + own
    return z


def mult(p, said, settings):
    """Tsai et al. 2019, section 3."""
    start, last = {}, []
    for m, x in said.items():
        start[m] = convolved(p["convolutions"][m], x, settings.kernel)
        if len(x):
            start[m] = start[m] + torch.stack([position(t, settings.width) for t in range(len(x))])
    for a in said:
        heard = [mult_transformer(p["crossmodal"][a][b], start[a], start[b], settings.heads) for b in said if b != a]
        z = mult_transformer(p["own"][a], beside(*heard) if heard else start[a], None, settings.heads)
        last.append(z[-1] if len(z) else z.new_zeros(z.shape[1]))
    x = beside(*last)
    return classified(p, x + linear(p["mix"], torch.relu(linear(p["hidden"], x))))


def misa_vectors(p, said):
    """Hazarika et al. 2020, section 3.3: u, h^c, h^p and u made again, of every modality."""
    found = {}
    for m, x in said.items():
        reader = p["readers"][m]
        u = layer_norm(reader["norm"], linear(reader["project"], ends("lstm", reader["lstm"], x)))
        shared, private = torch.sigmoid(linear(p["shared"], u)), torch.sigmoid(linear(p["private"][m], u))
        found[m] = {"u": u, "shared": shared, "private": private, "again": linear(p["decoder"], shared + private)}
    return found


def misa(p, said, settings):
    """Hazarika et al. 2020, section 3.4, with the transformer layer of Vaswani et al. 2017, figure 1: residual
    connections first, then the norms; ReLU. The shared vectors first."""
    vectors, q = misa_vectors(p, said), p["transformer"]
    every = [(name, m) for name in ("shared", "private") for m in said]
    there = [len(said[m]) > 0 for _, m in every]
    x = torch.stack([vectors[m][name] for name, m in every])
    x = norms(q["attention_norm"], x + attention(q["attention"], x, x[there], settings.heads))
    x = norms(q["mlp_norm"], x + forward(q, x))
    return classified(p, relu_layers(p["fusion"], x.flatten()))


def moment_discrepancy(x, y):
    """CMD (Zellinger et al. 2017), up to the fifth moment, of numbers from 0 to 1."""
    one, other = x - x.mean(dim=0), y - y.mean(dim=0)
    higher = [((one**k).mean(dim=0) - (other**k).mean(dim=0)).norm() for k in (2, 3, 4, 5)]
    return (x.mean(dim=0) - y.mean(dim=0)).norm() + sum(higher)


def overlap(x, y, added):
    """|| X' Y ||_F^2 of MISA's loss of difference, X' Y a mean over the rows [ours]."""
    x, y = (rows - rows.mean(dim=0) for rows in (x, y))
    x, y = (rows / torch.sqrt((rows**2).sum(dim=1, keepdim=True) + added) for rows in (x, y))
    return ((x.T @ y / len(x)) ** 2).sum()


def misa_terms(p, utterances, added=0.0):
    """What Hazarika et al. 2020 add to the task's loss in section 3.5, of the utterances that count. added: to the
    squared lengths of the rows that are made one long, of which the paper knows nothing."""
    vectors = [misa_vectors(p, said) for said in utterances]
    modalities = list(utterances[0])
    pairs = list(itertools.combinations(modalities, 2))

    def rows(*wanted):
        """Of (name, modality), over the utterances that have all these modalities."""
        have = [v for v, said in zip(vectors, utterances, strict=True) if all(len(said[m]) for _, m in wanted)]
        return [torch.stack([v[m][name] for v in have]) for name, m in wanted]

    similarity = [moment_discrepancy(*rows(("shared", m), ("shared", n))) for m, n in pairs]
    difference = [overlap(*rows(("shared", m), ("private", m)), added) for m in modalities]
    difference += [overlap(*rows(("private", m), ("private", n)), added) for m, n in pairs]
    reconstruction = []
    for m in modalities:
        u, again = rows(("u", m), ("again", m))
        reconstruction.append(((u - again) ** 2).sum(dim=1).mean() / u.shape[1])
    return {"similarity": mean(similarity), "difference": sum(difference), "reconstruction": mean(reconstruction)}
