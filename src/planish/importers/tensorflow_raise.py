"""Raises TensorFlow 1's control flow (Enter, Merge, Switch, ...) to While and If with functions.

A loop is a frame: every ``Enter`` of one frame name brings in a value. A loop variable is ``Enter
-> Merge -> Switch``; the Switch's output 1 goes into the body, whose result comes back through
``NextIteration``, output 0 leaves by ``Exit``. ``LoopCond`` is the condition, computed from the
Merges. A constant Enter is a value that the loop only reads.

A conditional is a set of ``Switch`` nodes with one predicate (``_SwitchN`` with one index), and a
``Merge`` where the branches meet. What lies between is found by following which predicates a node
depends on, by data or by control inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from planish.errors import ModelError
from planish.importers.tensorflow_graph import TfFunction, TfInput, TfType
from planish.importers.tensorflow_source import Port, SourceBody, SourceLibrary, SourceNode

ENTERS = ("Enter", "RefEnter")
EXITS = ("Exit", "RefExit")
MERGES = ("Merge", "RefMerge")
SWITCHES = ("Switch", "RefSwitch", "_SwitchN")
NEXTS = ("NextIteration", "RefNextIteration")
OPERANDS = {
    **dict.fromkeys((*ENTERS, *EXITS, *NEXTS, "LoopCond", "Identity"), 1),
    **dict.fromkeys((*MERGES, *SWITCHES), 2),
}
Conditions = frozenset[tuple[Port, int]]  # a predicate, and the branch of it


def raise_control_flow(body: SourceBody, library: SourceLibrary) -> SourceBody:
    """Return the body with functional control flow; bodies and branches go into the library."""
    ops = {node.op for node in body.nodes.values()}
    if not ops & {*ENTERS, *MERGES}:
        return body
    for node in body.nodes.values():
        if len(node.inputs) < OPERANDS.get(node.op, 0):
            raise ModelError("operands are missing", where=f"node {node.name} ({node.op})")
    return _raise_branches(_raise_loops(body, library), library)


# -- loops -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Variable:
    """A loop variable: where it enters, the nodes that stand for it, what it becomes."""

    enter: SourceNode
    merge: str
    switch: str | None
    following: Port


@dataclass(frozen=True)
class _Frame:
    name: str
    variables: tuple[_Variable, ...]
    constants: tuple[SourceNode, ...]
    condition: Port

    @property
    def enters(self) -> list[SourceNode]:
        """What enters the loop, in the order of its arguments."""
        return [*(variable.enter for variable in self.variables), *self.constants]

    def argument(self, position: int) -> str:
        return f"{self.name}/argument_{position}"

    def fed(self) -> dict[Port, str]:
        """Return what the loop's arguments stand for inside it."""
        fed: dict[Port, str] = {}
        for position, variable in enumerate(self.variables):
            fed[variable.merge, 0] = self.argument(position)
            if variable.switch is not None:
                fed[variable.switch, 1] = self.argument(position)
        for position, enter in enumerate(self.constants, len(self.variables)):
            fed[enter.name, 0] = self.argument(position)
        return fed


def _raise_loops(body: SourceBody, library: SourceLibrary) -> SourceBody:
    nodes = dict(body.nodes)
    frames: dict[str, list[SourceNode]] = {}
    for node in nodes.values():
        if node.op in ENTERS:
            frames.setdefault(str(node.attributes.get("frame_name", "")), []).append(node)
    waiting = sorted(frames)
    while waiting:
        ready = [name for name in waiting if _raise_loop(name, frames[name], nodes, library)]
        if not ready:
            raise ModelError(
                f"the loop {waiting[0]} is not put together as TensorFlow does it", where=body.name
            )
        waiting = [name for name in waiting if name not in ready]
    return replace(body, nodes=nodes)


def _raise_loop(
    name: str, enters: list[SourceNode], nodes: dict[str, SourceNode], library: SourceLibrary
) -> bool:
    """Replace a loop by a While node; False when a loop inside it has to go first."""
    frame = _frame(name, enters, nodes, library.label)
    fed = frame.fed()
    results = [variable.following for variable in frame.variables]
    inside = _between([frame.condition, *results], fed, nodes)
    if inside is None:
        return False
    arguments = tuple(
        TfInput(frame.argument(position), enter.attributes.get("T", "unknown"), None)
        for position, enter in enumerate(frame.enters)
    )
    constants = [(enter.name, 0) for enter in frame.constants]
    named = [(f"result_{i}", port) for i, port in enumerate([*results, *constants])]
    function = _new_name(library, name)
    for suffix, returned in (("cond", [("cond", frame.condition)]), ("body", named)):
        part = SourceBody(f"{function}_{suffix}", arguments, tuple(returned), inside, (), fed)
        library.add(_raise_branches(part, library))
    attributes = {
        "cond": TfFunction(f"{function}_cond"),
        "body": TfFunction(f"{function}_body"),
        "T": [argument.dtype for argument in arguments],
    }
    loop = _fresh(name, nodes)
    nodes[loop] = SourceNode(
        loop, "While", tuple(enter.inputs[0] for enter in frame.enters), (), attributes
    )
    positions = {variable.switch: i for i, variable in enumerate(frame.variables)}
    for node in list(nodes.values()):
        if node.op in EXITS and node.inputs[0][0] in positions:
            port = (loop, positions[node.inputs[0][0]])
            nodes[node.name] = replace(node, op="Identity", inputs=(port,), control=())
    return True


def _frame(
    name: str, enters: list[SourceNode], nodes: Mapping[str, SourceNode], label: str
) -> _Frame:
    """Return the parts of a loop."""
    by_enter = {enter.name: enter for enter in enters}
    variables, conditions = [], []
    for merge in sorted(nodes.values(), key=lambda node: node.name):
        if merge.op not in MERGES or not any(port[0] in by_enter for port in merge.inputs):
            continue
        enter = next(by_enter.pop(port[0]) for port in merge.inputs if port[0] in by_enter)
        following = [nodes[p[0]] for p in merge.inputs if p[0] in nodes and nodes[p[0]].op in NEXTS]
        switch = next(
            (n for n in nodes.values() if n.op in SWITCHES and n.inputs[0][0] == merge.name), None
        )
        if not following:
            raise ModelError("a loop variable never gets another value", where=f"{name} of {label}")
        condition = None if switch is None else nodes.get(switch.inputs[1][0])
        if condition is not None and condition.op == "LoopCond":
            conditions.append(condition.inputs[0])
        switch_name = None if switch is None else switch.name
        variables.append(_Variable(enter, merge.name, switch_name, following[0].inputs[0]))
    if not conditions:
        raise ModelError("a loop has no condition", where=f"{name} of {label}")
    constants = tuple(by_enter[key] for key in sorted(by_enter))
    return _Frame(name, tuple(variables), constants, conditions[0])


def _between(
    ports: Iterable[Port], fed: Mapping[Port, str], nodes: Mapping[str, SourceNode]
) -> dict[str, SourceNode] | None:
    """Return the nodes between what is fed and `ports`; None when a loop lies in between."""
    found: dict[str, SourceNode] = {}
    todo = [port[0] for port in ports if port not in fed]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        if name not in nodes:
            raise ModelError(f"a loop reads {name!r}, which does not enter it")
        node = nodes[name]
        if node.op in (*ENTERS, *EXITS, *NEXTS):
            return None
        found[name] = replace(node, control=tuple(c for c in node.control if c in nodes))
        todo += [port[0] for port in node.inputs if port not in fed]
    return {
        name: replace(node, control=tuple(c for c in node.control if c in found))
        for name, node in found.items()
    }


# -- conditionals ----------------------------------------------------------------------------------


@dataclass
class _Branching:
    """Which predicates every node depends on, while conditionals are replaced."""

    body: SourceBody
    library: SourceLibrary
    nodes: dict[str, SourceNode]
    conditions: dict[str, Conditions] = field(default_factory=dict)
    indexed: set[Port] = field(default_factory=set)  # predicates that are indices of branches

    def of_port(self, port: Port) -> Conditions:
        node = self.nodes.get(port[0])
        known = self.conditions.get(port[0], frozenset())
        if node is None or node.op not in SWITCHES or port in self.body.fed:
            return known
        predicate = self.predicate(node)
        if node.op == "_SwitchN":
            self.indexed.add(predicate)
        return known | {(predicate, port[1])}

    def predicate(self, switch: SourceNode) -> Port:
        """Return the port that a Switch goes by, behind identities."""
        port = switch.inputs[1]
        while port not in self.body.fed:
            node = self.nodes.get(port[0])
            if node is None or node.op != "Identity":
                break
            port = node.inputs[0]
        return port

    def visit(self, node: SourceNode) -> None:
        """Note what `node` depends on; replace it when it is a Merge."""
        if node.op in MERGES:
            self._merge(node)
            return
        ports = [port for port in node.inputs if port not in self.body.fed]
        depends = [self.of_port(port) for port in ports]
        depends += [self.conditions.get(name, frozenset()) for name in node.control]
        self.conditions[node.name] = frozenset().union(*depends)

    def _merge(self, node: SourceNode) -> None:
        sides = [self.of_port(port) for port in node.inputs]
        found = _split(sides)
        is_case = found is not None and found[0] in self.indexed
        if found is None or not (is_case or len(sides) == 2):
            raise ModelError(
                "cannot tell which condition the branches that meet here belong to",
                where=f"node {node.name} (Merge) of {self.body.name}",
                fix="save the model with TensorFlow 2, which keeps conditionals as functions",
            )
        predicate, branches = found
        operands: dict[Port, str] = {}
        parts = {
            branch: (port, *self._slice(port, predicate, operands, node.name))
            for branch, port in sorted(zip(branches, node.inputs, strict=True))
        }
        arguments = tuple(
            TfInput(argument, self._type(port), None) for port, argument in operands.items()
        )
        functions = []
        for branch, (port, inside, fed) in parts.items():
            name = _new_name(self.library, f"{node.name}_branch_{branch}")
            body = SourceBody(name, arguments, (("result", port),), inside, (), fed)
            self.library.add(body)
            functions.append(TfFunction(name))
        attributes: dict[str, object] = {"Tin": [argument.dtype for argument in arguments]}
        if "T" in node.attributes:
            attributes["Tout"] = [node.attributes["T"]]
        if is_case:
            op, attributes["branches"] = "Case", functions
        else:
            op = "If"
            attributes["else_branch"], attributes["then_branch"] = functions
        inputs = (predicate, *operands)
        self.nodes[node.name] = SourceNode(node.name, op, inputs, (), attributes, node.device)
        every = frozenset[tuple[Port, int]]().union(*sides)
        self.conditions[node.name] = frozenset(c for c in every if c[0] != predicate)

    def _slice(
        self, result: Port, predicate: Port, operands: dict[Port, str], label: str
    ) -> tuple[dict[str, SourceNode], dict[Port, str]]:
        """Return the nodes of a branch, and what its arguments stand for."""
        inside: dict[str, SourceNode] = {}
        fed: dict[Port, str] = {}
        todo = [result]
        while todo:
            port = todo.pop()
            if port in fed or port[0] in inside:
                continue
            node = None if port in self.body.fed else self.nodes.get(port[0])
            is_switch = node is not None and node.op in SWITCHES
            if node is not None and is_switch and self.predicate(node) == predicate:
                fed[port] = _operand_name(operands, node.inputs[0], label)
            elif node is None or not (self._in_branch(port, predicate) or not node.inputs):
                fed[port] = _operand_name(operands, port, label)
            else:
                inside[port[0]] = replace(node, control=())
                todo += node.inputs
        return inside, fed

    def _in_branch(self, port: Port, predicate: Port) -> bool:
        return any(each == predicate for each, _ in self.of_port(port))

    def _type(self, port: Port) -> TfType:
        node = self.nodes.get(port[0])
        given = {} if node is None else node.attributes
        dtype: TfType = given.get("T", given.get("dtype", "unknown"))
        return dtype


def _split(sides: list[Conditions]) -> tuple[Port, list[int]] | None:
    """Return the predicate that all sides differ in, and the branch of it that each one is.

    One side may be a constant that depends on nothing: it is the branch that is left.
    """
    for predicate in sorted({predicate for side in sides for predicate, _ in side}):
        branches = [next((b for p, b in sorted(side) if p == predicate), None) for side in sides]
        left = sorted(set(range(len(sides))) - set(branches))
        if len(left) == branches.count(None) <= 1:
            return predicate, [left[0] if branch is None else branch for branch in branches]
    return None


def _raise_branches(body: SourceBody, library: SourceLibrary) -> SourceBody:
    if not any(node.op in MERGES for node in body.nodes.values()):
        return body
    branching = _Branching(body, library, dict(body.nodes))
    for node in body.ordered():
        branching.visit(node)
    return replace(body, nodes=branching.nodes)


def _operand_name(operands: dict[Port, str], port: Port, label: str) -> str:
    return operands.setdefault(port, f"{label}/argument_{len(operands)}")


def _new_name(library: SourceLibrary, name: str) -> str:
    attempt, candidate = 0, name
    while library.has_function(candidate) or library.has_function(f"{candidate}_body"):
        attempt += 1
        candidate = f"{name}_{attempt}"
    return candidate


def _fresh(name: str, nodes: Mapping[str, SourceNode]) -> str:
    attempt, candidate = 0, name
    while candidate in nodes:
        attempt += 1
        candidate = f"{name}_{attempt}"
    return candidate
