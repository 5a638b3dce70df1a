"""The API reference: every public name, by task."""

from __future__ import annotations

from typing import NamedTuple


class Task(NamedTuple):
    """A page of the reference.

    Attributes:
        page: name of its file.
        title: its heading.
        line: what it is about.
        names: full names, in the order of the page.
    """

    page: str
    title: str
    line: str
    names: tuple[str, ...]


TASKS = (
    Task(
        "examples",
        "Examples and files",
        "Message trees, and where they come from.",
        (
            "treepack.MessageTree",
            "treepack.group_conversations",
            "treepack.Conversations",
            "treepack.Mixture",
            "treepack.sources.protocol.Source",
            "treepack.sources.protocol.MeasuredSource",
            "treepack.sources.protocol.OrderedSource",
            "treepack.sources.protocol.IterableSource",
        ),
    ),
    Task(
        "packing",
        "Packing",
        "Which examples share a row.",
        (
            "treepack.Packer",
            "treepack.Pack",
            "treepack.pack",
            "treepack.packing.Packs",
            "treepack.Balance",
        ),
    ),
    Task(
        "measuring",
        "Measuring and simulating",
        "What examples cost, and what budgets make of them.",
        (
            "treepack.costs.measure",
            "treepack.costs.read",
            "treepack.costs.from_parquet",
            "treepack.costs.from_numpy",
            "treepack.costs.CostTable",
            "treepack.costs.Branches",
            "treepack.simulate",
            "treepack.packing.Simulation",
            "treepack.packing.Advice",
            "treepack.packing.FrontierPoint",
            "treepack.packing.PoolOutcome",
        ),
    ),
    Task(
        "rows",
        "Rows and loaders",
        "A stream of packed rows for a DataLoader, and what a row is.",
        (
            "treepack.PackedDataset",
            "treepack.collate",
            "treepack.PackedBatch",
            "treepack.batch.PackedRow",
            "treepack.batch.StandIn",
            "treepack.state.merge",
        ),
    ),
    Task(
        "attention",
        "Attention",
        "The mask of a row, and attention over it.",
        (
            "treepack.TreeMask",
            "treepack.tree_attention",
            "treepack.attention.TreePlan",
            "treepack.attention.formats.trl_tree_kwargs",
            "treepack.attention.formats.flashmask_columns",
            "treepack.attention.formats.magi_slices",
            "treepack.attention.formats.query_intervals",
        ),
    ),
    Task(
        "models",
        "Hugging Face models",
        "Attention and loss of a model, exact on packed rows.",
        (
            "treepack.hf.prepare",
            "treepack.hf.restore",
            "treepack.hf.register",
            "treepack.hf.sliding_windows",
            "treepack.hf.weighted_loss",
            "treepack.hf.token_logprobs",
            "treepack.hf.molmo2_weights",
        ),
    ),
    Task(
        "families",
        "Model families",
        "How a model wants its examples, and how to add one.",
        (
            "treepack.families.find",
            "treepack.families.families",
            "treepack.families.learn",
            "treepack.families.Family",
            "treepack.families.ProcessorFamily",
            "treepack.families.MediumFamily",
            "treepack.families.LearnedFamily",
            "treepack.families.ChatFormat",
            "treepack.families.Join",
            "treepack.batch.CollateFamily",
            "treepack.batch.concatenate_media",
        ),
    ),
    Task(
        "training",
        "Training",
        "Steps over ranks, trainers, statistics.",
        (
            "treepack.train.steps",
            "treepack.train.gather_state",
            "treepack.train.Statistics",
            "treepack.hf.PackedTrainer",
            "treepack.lightning.PackedSteps",
        ),
    ),
    Task(
        "rl",
        "Reinforcement learning",
        "Many responses to one prompt, which is computed once.",
        (
            "treepack.rl.logprobs",
            "treepack.rl.padded_logprobs",
            "treepack.rl.score",
            "treepack.rl.score_row",
            "treepack.rl.Scores",
            "treepack.rl.fold",
            "treepack.rl.Folded",
            "treepack.rl.GRPOTrainer",
            "treepack.rl.TreeGRPO",
            "treepack.rl.register_trl_tree_attention",
        ),
    ),
    Task(
        "checks",
        "Checks",
        "Whether your data, model and machine are right.",
        (
            "treepack.testing.check_exact",
            "treepack.check.ExactReport",
            "treepack.testing.check_exactly_once",
            "treepack.testing.check_resume_everywhere",
            "treepack.testing.check_same_packs_for_any_topology",
            "treepack.testing.assert_batches_equal",
            "treepack.testing.doctor",
            "treepack.check.doctor.Diagnosis",
        ),
    ),
    Task(
        "viz",
        "Pictures",
        "Rows and simulations as pages.",
        (
            "treepack.viz.save_pack",
            "treepack.viz.pack_html",
            "treepack.viz.save_simulation",
            "treepack.viz.mask_picture",
            "treepack.viz.png",
            "treepack.viz.PALETTE",
        ),
    ),
    Task(
        "options",
        "Options",
        "The words that options take, as types for annotations of your own.",
        ("treepack.options",),
    ),
    Task(
        "errors",
        "Errors",
        "All of them are ValueErrors that say what to change.",
        (
            "treepack.errors.TreepackError",
            "treepack.errors.AttentionError",
            "treepack.errors.BatchError",
            "treepack.errors.BudgetError",
            "treepack.errors.CostError",
            "treepack.errors.DataError",
            "treepack.errors.DatasetError",
            "treepack.errors.FamilyError",
            "treepack.errors.MissingPackageError",
            "treepack.errors.NotPreparedError",
            "treepack.errors.OversizeError",
            "treepack.errors.StateError",
            "treepack.errors.TreeError",
        ),
    ),
)


def pages() -> dict[str, str]:
    """Every page of the reference by its place; the first lists all names."""
    return {"api/index.md": _index()} | {f"api/{task.page}.md": _page(task) for task in TASKS}


def _index() -> str:
    lines = [
        "# API reference",
        "",
        "`import treepack as tp` needs numpy alone; what needs more imports it when it is used,",
        "and says which extra is missing.",
        "",
        "| | |",
        "|---|---|",
    ]
    for task in TASKS:
        names = " · ".join(f"[`{name.rpartition('.')[2]}`][{name}]" for name in task.names)
        lines.append(f"| [{task.title}]({task.page}.md) | {names} |")
    return "\n".join(lines) + "\n"


def _page(task: Task) -> str:
    blocks = "\n".join(f"::: {name}\n" for name in task.names)
    return f"# {task.title}\n\n{task.line}\n\n{blocks}"
