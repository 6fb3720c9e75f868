"""The network's graph for TensorBoard: modules and the connections between them, without their operators."""

from __future__ import annotations

import inspect

import torch.fx
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef
from tensorboard.compat.proto.versions_pb2 import VersionDef
from torch import nn


class _Tracer(torch.fx.Tracer):
    """Does not trace into modules with own parameters, nor into dynamic layers."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        owns = next(module.parameters(recurse=False), None) is not None
        return owns or super().is_leaf_module(module, name)


def module_graph(model: nn.Module) -> bytes:
    """A serialised GraphDef with one node per layer, named by its path in the network.

    Optional arguments of `forward` keep their defaults. Raises the errors of torch.fx for networks whose control flow
    depends on the input.
    """
    optional = {
        name: parameter.default
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    traced = _Tracer().trace(model, concrete_args=optional)
    for node in reversed(traced.nodes):  # the fixed arguments and their checks, which no node uses
        if node.op != "output" and not node.users:
            traced.erase_node(node)
    modules = dict(model.named_modules())
    names: dict[torch.fx.Node, str] = {}
    nodes = []
    scope = ""
    for node in traced.nodes:
        if node.op == "call_module":
            names[node] = str(node.target).replace(".", "/")
            scope = names[node].rpartition("/")[0]
            kind = type(modules[str(node.target)]).__name__
        else:
            names[node] = f"{scope}/{node.name}" if scope and node.op.startswith("call") else node.name
            kind = {"placeholder": "input", "output": "output"}.get(node.op) or _function_name(node)
        inputs = [names[source] for source in node.all_input_nodes]
        nodes.append(NodeDef(name=names[node], op=kind, input=inputs))
    written: bytes = GraphDef(node=nodes, versions=VersionDef(producer=22)).SerializeToString()
    return written


def _function_name(node: torch.fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))
