"""The baselines that read whole dialogues, over one dialogue in float64 PyTorch, turn by turn, written from the papers'
equations, GraphSmile's from the formulas that our docstrings state of it, and none from our code.

A network is called as network(p, said, who, hears, settings) -> [turns, width]. p: the parameters, nested dicts of
tensors. said[m]: [turns, feat_m], what a modality says. who: the speakers' numbers, 0 where one is unknown, who counts
as the first. hears: "past", where nothing later is read, or "both". Where a paper leaves open in which order parameters
lie (of relations, of edges, of what lies side by side), that is ours."""

import math

import torch


def linear(p, x):
    y = x @ p["kernel"]
    return y + p["bias"] if "bias" in p else y


def beside(*parts):
    return torch.cat(parts, dim=-1)


def speakers(who):
    """From 0."""
    return [max(number, 1) - 1 for number in who]


def heard(turn, turns, hears):
    """The turns that this one may read."""
    return range(turn + 1 if hears == "past" else turns)


def softmax(scores):
    """Of the numbers in a list."""
    return list(torch.softmax(torch.stack(scores), dim=0))


def attended(query, memory, scaled=False):
    """softmax(query . m) over the memory's m, of which the mean is taken. scaled: over the root of their length [ours]."""
    query = query / math.sqrt(len(query)) if scaled else query
    return sum(share * m for share, m in zip(softmax([query @ m for m in memory]), memory, strict=True))


def gru_step(inputs, recurrent, state):
    """inputs, recurrent: what the input and the state give the gates, reset, update and candidate side by side."""
    (r, z, n), (of_r, of_z, of_n) = inputs.chunk(3), linear(recurrent, state).chunk(3)
    reset, update = torch.sigmoid(r + of_r), torch.sigmoid(z + of_z)
    return (1 - update) * torch.tanh(n + reset * of_n) + update * state


def lstm_step(inputs, recurrent, state):
    h, cell = state
    i, f, g, o = (inputs + linear(recurrent, h)).chunk(4)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


def one_way(step, p, direction, turns, start):
    """What `step` makes of the turns one after the other, the last one first where the direction is 1."""
    found, state = [None] * len(turns), start
    for t in reversed(range(len(turns))) if direction else range(len(turns)):
        state = step(linear(p["inputs"][str(direction)], turns[t]), p["recurrent"][str(direction)], state)
        found[t] = state
    return found


def recurrent(kind, p, turns, hears):
    """An LSTM or GRU over the turns, both directions side by side."""
    ways = []
    for direction in range(1 if hears == "past" else 2):
        zero = turns.new_zeros(p["recurrent"][str(direction)]["kernel"].shape[0])
        if kind == "lstm":
            ways.append([h for h, _ in one_way(lstm_step, p, direction, turns, (zero, zero))])
        else:
            ways.append(one_way(gru_step, p, direction, turns, zero))
    return [beside(*states) for states in zip(*ways, strict=True)]


def bc_lstm(p, said, who, hears, settings):
    """Poria et al. 2017, sections 3.2 and 3.3: z_t = ReLU(W_z h_t + b_z) of an LSTM's h, of every modality first and
    then of all these."""

    def contextual(q, turns):
        return torch.stack([torch.relu(linear(q["dense"], h)) for h in recurrent("lstm", q["lstm"], turns, hears)])

    if "single" in p:
        said = {m: contextual(p["single"][m], x) for m, x in said.items()}
    return contextual(p["fused"], beside(*said.values()))


def dialogue_rnn(p, said, who, hears, settings):
    """Majumder et al. 2019, BiDialogueRNN with attention."""
    u, who = beside(*said.values()), speakers(who)

    def gru_of_two(q, utterance, other, state):
        return gru_step(linear(q["utterance"], utterance) + linear(q["beside"], other), q["recurrent"], state)

    def one_direction(q, order):
        zero = u.new_zeros(q["emotion"]["kernel"].shape[0])
        party, spoken, e, emotions = {}, [], zero, {}
        for t in order:
            q_s = party.get(who[t], zero)
            g = gru_of_two(q["of_dialogue"], u[t], q_s, spoken[-1] if spoken else zero)
            c = attended(u[t] @ q["query"]["kernel"], spoken) if spoken else zero
            party[who[t]] = gru_of_two(q["of_speaker"], u[t], c, q_s)
            e = gru_step(linear(q["emotion_in"], party[who[t]]), q["emotion"], e)
            spoken.append(g)
            emotions[t] = e
        return emotions

    turns = range(len(u))
    ways = [one_direction(p["directions"]["0"], turns)]
    if hears == "both":
        ways.append(one_direction(p["directions"]["1"], reversed(turns)))
    e = [beside(*(way[t] for way in ways)) for t in turns]
    memories = [[e[j] for j in heard(t, len(u), hears)] for t in turns]
    emotions = [attended(e[t] @ p["query"]["kernel"], memories[t], settings.scaled) for t in turns]
    return torch.stack([torch.relu(linear(p["last"], emotion)) for emotion in emotions])


def neighbours(i, turns, hears, settings):
    return [j for j in heard(i, turns, hears) if i - settings.before <= j <= i + settings.after]


def dialogue_gcn(p, said, who, hears, settings):
    """Ghosal et al. 2019, section 3.3. Speakers beyond those that relations tell apart count as the last of these; a
    turn is a neighbour of itself, too."""
    u, who = beside(*said.values()), [min(number, settings.speakers - 1) for number in speakers(who)]
    g = recurrent("gru", p["recurrent"], u, hears)
    turns, weight = range(len(u)), {}
    near = [neighbours(i, len(u), hears, settings) for i in turns]
    for i in turns:
        query = g[i] @ p["edge"]["kernel"]
        for j, share in zip(near[i], softmax([query @ g[j] for j in near[i]]), strict=True):
            weight[i, j] = share
    first = []
    for i in turns:
        h = weight[i, i] * linear(p["graph"]["itself"], g[i])
        relation = {j: 2 * (settings.speakers * who[i] + who[j]) + (j > i) for j in near[i]}
        for j, r in relation.items():
            c = list(relation.values()).count(r)
            h = h + weight[i, j] / c * (g[j] @ p["graph"]["relations"][r])
        first.append(torch.relu(h))
    joined = []
    for i in turns:
        h = weight[i, i] * linear(p["graph"]["second_itself"], first[i])
        for j in near[i]:
            h = h + linear(p["graph"]["second"], first[j])
        joined.append(beside(g[i], torch.relu(h)))
    found = []
    for i in turns:
        memory = [joined[j] for j in heard(i, len(u), hears)]
        mixed = attended(joined[i] @ p["query"]["kernel"], memory, settings.scaled)
        found.append(torch.relu(linear(p["last"], mixed)))
    return torch.stack(found)


def likeness(x, y, nearly_one):
    return 1 - torch.arccos(nearly_one * (x @ y) / (x.norm() * y.norm())) / math.pi


def normed(edges):
    """D^-1/2 A D^-1/2 of {(node reached, node that reaches it): strength}."""
    degree = {}
    for (node, _), strength in edges.items():
        degree[node] = degree.get(node, 0) + strength
    return {(x, y): strength / torch.sqrt(degree[x] * degree[y]) for (x, y), strength in edges.items()}


def mmgcn(p, said, who, hears, settings, nearly_one=1.0):
    """Hu et al. 2021, section 3. nearly_one: factor of the cosine, of which the paper knows nothing."""
    turns = range(len(who))
    start = {}  # of every node, by modality and turn
    for m in said:
        encoded = recurrent("lstm", p["text"], said[m], hears) if m == "text" else linear(p["dense"][m], said[m])
        for i, speaker in enumerate(speakers(who)):
            start[m, i] = beside(encoded[i], p["speakers"]["kernel"][speaker] + p["speakers"]["bias"])
    edges = {(node, node): torch.ones((), dtype=torch.float64) for node in start}  # I of A + I
    for m, i in start:
        for n, j in start:
            if j in heard(i, len(turns), hears) and (m == n) != (i == j):
                strength = likeness(start[m, i], start[n, j], nearly_one)
                edges[(m, i), (n, j)] = strength if m == n else settings.gamma * strength
    edges, now = normed(edges), start
    for layer in range(1, settings.layers + 1):
        share, kernel = math.log(settings.eta / layer + 1), p["layers"][str(layer - 1)]
        mixed = {node: settings.alpha * x for node, x in start.items()}
        for (node, other), strength in edges.items():
            mixed[node] = mixed[node] + (1 - settings.alpha) * strength * now[other]
        now = {node: torch.relu((1 - share) * x + share * linear(kernel, x)) for node, x in mixed.items()}
    both = [beside(*(nodes[m, i] for nodes in (start, now) for m in said)) for i in turns]
    return torch.stack([torch.relu(linear(p["last"], x)) for x in both])


def layer_norm(p, x, epsilon=1e-6):
    centred = x - x.mean()
    return centred / torch.sqrt((centred**2).mean() + epsilon) * p["scale"] + p["bias"]


def position(turn, width):
    """Vaswani et al. 2017, section 3.5."""
    angles = [turn / 10000 ** (2 * (k // 2) / width) for k in range(width)]
    return torch.tensor([math.cos(a) if k % 2 else math.sin(a) for k, a in enumerate(angles)], dtype=torch.float64)


def transformer_layer(p, x, memory, hears, heads):
    """Vaswani et al. 2017, figure 1: residual connections first, then the norms."""
    q = p["attention"]
    keys, values = ([linear(q[name], other).chunk(heads) for other in memory] for name in ("key", "value"))
    found = []
    for i, itself in enumerate(x):
        mixed, others = [], heard(i, len(x), hears)
        for head, query in enumerate(linear(q["query"], itself).chunk(heads)):
            shares = softmax([query @ keys[j][head] / math.sqrt(len(query)) for j in others])
            mixed.append(sum(share * values[j][head] for share, j in zip(shares, others, strict=True)))
        h = layer_norm(p["attention_norm"], itself + linear(q["out"], beside(*mixed)))
        forward = linear(p["mlp_out"], torch.relu(linear(p["mlp_in"], h)))
        found.append(layer_norm(p["mlp_norm"], h + forward))
    return found


def sdt(p, said, who, hears, settings):
    """Ma et al. 2023, section III: the fused feature H', and behind it every modality's H'_m."""
    turns = range(len(who))
    h = {}
    for m in said:
        entered = linear(p["enter"][m], said[m])
        h[m] = [entered[t] + position(t, len(entered[t])) + p["speakers"][s] for t, s in enumerate(speakers(who))]
    own = {}
    for m in said:
        gated = []
        for n in said:
            crossed = transformer_layer(p["encoders"][f"{n}_to_{m}"], h[m], h[n], hears, settings.heads)
            gate = p["gates"][f"{n}_to_{m}"]
            gated.append([x * torch.sigmoid(linear(gate, x)) for x in crossed])
        own[m] = [linear(p["join"][m], beside(*(of_n[t] for of_n in gated))) for t in turns]
    found = []
    for t in turns:
        weights = torch.softmax(torch.stack([linear(p["fusion_gate"], own[m][t]) for m in said]), dim=0)
        fused = sum(weight * own[m][t] for weight, m in zip(weights, said, strict=True))
        found.append(beside(fused, *(own[m][t] for m in said)))
    return torch.stack(found)


def bimodal_graph(p, pair, hears, settings):
    """Of two modalities, [turns, width] each: what each says in the end."""
    turns, edges = len(pair[0]), {}
    h = {(side, i): pair[side][i] for side in (0, 1) for i in range(turns)}
    for side, i in h:
        for j in neighbours(i, turns, hears, settings):
            edges[(side, i), (1 - side, j)] = torch.exp(p["edges"][side, j - i + settings.before])
    edges, found = normed(edges), dict(h)
    for layer in map(str, range(settings.layers)):
        mixed = dict.fromkeys(h, 0)
        for (node, other), strength in edges.items():
            mixed[node] = mixed[node] + strength * h[other]
        h = {node: linear(p["layers"][layer], x) for node, x in mixed.items()}
        for node, x in h.items():
            found[node] = found[node] + torch.relu(linear(p["says"][layer], x))
    return [torch.stack([found[side, i] for i in range(turns)]) for side in (0, 1)]


def graph_smile(p, said, who, hears, settings):
    """Li et al. 2025, as `GraphSmile` and `BimodalGraph` state it. One modality alone has a graph with itself."""
    z = {m: linear(p["enter"][m], said[m]) for m in said}
    ends = []
    for name, graph in p["graphs"].items():
        ends += bimodal_graph(graph, [z[m] for m in name.split("_")], hears, settings)
    return sum(torch.relu(linear(p["fuse"], x)) for x in ends) / len(ends)


def cross_entropy(logits, label):
    return -torch.log_softmax(logits, dim=-1)[label]


def mean(terms):
    return sum(terms) / len(terms) if terms else torch.zeros((), dtype=torch.float64)


def sdt_terms(p, rows, label, modalities, temperature):
    """What Ma et al. 2023 add up, of the rows that are learnt, each what `sdt` makes of an utterance."""
    task, students, distance = [], [], []
    for row, y in zip(rows, label, strict=True):
        fused, *own = row.chunk(1 + len(modalities))
        teacher = linear(p["classifier"], fused)
        soft = torch.softmax(teacher / temperature, dim=-1)
        task.append(cross_entropy(teacher, y))
        logits = [linear(p["students"][m], torch.relu(x)) for m, x in zip(modalities, own, strict=True)]
        students.append(sum(cross_entropy(z, y) for z in logits))
        softer = [torch.log_softmax(z / temperature, dim=-1) for z in logits]
        distance.append(sum((soft * (torch.log(soft) - q)).sum() for q in softer))
    return {"classification": mean(task), "students": mean(students), "distillation": mean(distance)}


def graph_smile_terms(p, dialogues, window, sentiment_of):
    """What Li et al. 2025 add up, as `Dynamics` states it. dialogues: of each the features of its turns and their
    classes, None where a turn is not learnt. sentiment_of: of every class."""
    task, sentiment, shift = [], [], []
    for z, label in dialogues:
        learnt = [i for i, y in enumerate(label) if y is not None]
        for i in learnt:
            felt = sentiment_of[label[i]]
            task.append(cross_entropy(linear(p["classifier"], z[i]), label[i]))
            sentiment.append(cross_entropy(linear(p["sentiment"], z[i]), felt))
            for j in learnt:
                if i // window == j // window:
                    hidden = torch.relu(linear(p["shift_one"], z[i]) + linear(p["shift_other"], z[j]))
                    changed = int(felt != sentiment_of[label[j]])
                    shift.append(cross_entropy(linear(p["shift"], hidden), changed))
    return {"classification": mean(task), "sentiment": mean(sentiment), "shift": mean(shift)}
