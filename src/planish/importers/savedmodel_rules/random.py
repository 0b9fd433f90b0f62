"""Random numbers: an engine gives the same results for the same inputs."""

from __future__ import annotations

from planish.importers.tensorflow_builder import Builder, rule
from planish.importers.tensorflow_graph import TfNode
from planish.ir.graph import Value


@rule(
    "Multinomial", "ParameterizedTruncatedNormal", "RandomGamma", "RandomPoissonV2",
    "RandomShuffle", "RandomStandardNormal", "RandomUniform", "RandomUniformInt",
    "StatelessMultinomial", "StatelessRandomNormal", "StatelessRandomNormalV2",
    "StatelessRandomUniform", "StatelessRandomUniformInt", "StatelessRandomUniformIntV2",
    "StatelessRandomUniformV2", "StatelessTruncatedNormal", "StatelessTruncatedNormalV2",
    "TruncatedNormal",
)  # fmt: skip
def random_numbers(node: TfNode, builder: Builder) -> Value:
    """Refuse."""
    builder.refuse(
        "it draws random numbers, so its results cannot be reproduced; export the model for "
        "inference (training=False), or feed the numbers as an input"
    )
