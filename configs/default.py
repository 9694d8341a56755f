"""Every field, with its unit and where its value comes from: the only place with defaults.

`paper`: Zhao et al. (ACL 2025). `LESS`: Xia et al. (ICML 2024), which the paper follows.
`free`: not stated in any source found. `ours`: chosen by measurement, see docs/.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The default of every field, section by section."""
    config = ConfigDict()
    _inputs(config)
    config.warmup = _training(epochs=4, learning_rate=2e-5, schedule="linear")  # LESS
    config.warmup.fraction = 0.05  # of the pool, drawn at random (LESS; free in the paper)
    config.warmup.seed = 0  # added to the run's: another warm-up, all else the same
    # Instead of a warm-up: an adapter in PEFT's files, with optimizer.pt of a Hugging Face Trainer
    # where a kind needs moments; or a stage warmup-* or finetune-* of another work folder.
    config.warmup.adapter = ""
    config.finetune = _training(epochs=3, learning_rate=2e-5, schedule="cosine")  # paper; rate free
    config.finetune.keep_epochs = True  # the adapter after each epoch stays, not only the last
    config.finetune.merge = False  # also write base and adapter as one checkpoint
    config.finetune.full = False  # train all weights, without an adapter: for small models (TIS)
    _features(config)
    _selection(config)
    _evaluation(config)

    config.run = ConfigDict()
    # By commas, of none, full, random, length, bm25, dsir, rds_plus, less, less_rr, bids, gist,
    # knn_even, tsds_knn, tsds_kde, uot, coverage, pursuit, gip, loss_drop, embed, g2is_paper, g2is:
    config.run.methods = "none,full,random,length,less,less_rr,g2is_paper,g2is"
    config.run.seeds = "0"  # by commas; each is a whole run of its own, from the warm-up on
    # By commas, of tensorboard, wandb (WANDB_MODE=offline keeps it here); with the extra [track].
    config.run.trackers = ""
    config.run.replace = False  # take over a work folder that was started with another config
    return config.lock()  # a config made from this one cannot add a field by a slip of the pen


def _inputs(config: ConfigDict) -> None:
    """The base model, the adapter, the files, and the built-in world in their place."""
    config.model = ConfigDict()
    config.model.checkpoint = ""  # folder, gs:// path or hub id; or `skills`: the built-in one
    config.model.revision = ""  # of a hub id: branch, tag or commit; empty: its main branch
    config.model.dtype = "bfloat16"  # of the base's weights: float32, bfloat16
    # Between the weights: float32, bfloat16; auto: float32 on a CPU, else as the weights.
    config.model.activations = "auto"
    config.model.attention = "auto"  # splash (TPU), cudnn (NVIDIA, in bfloat16), blocks (any)
    # scan: layers that repeat are compiled once; loop: each is; depth: scan and remat from 8 layers
    # on; auto: depth on a CPU, else scan.
    config.model.layers = "auto"
    config.model.remat = False  # recompute each block in the backward pass: less memory, slower
    config.model.shard_base = False  # each device holds a share of every matrix of the base
    config.model.chat_template = "auto"  # the tokenizer's own, else tulu; or a named one
    config.model.max_length = 2048  # tokens; longer rows lose their end (LESS)

    config.lora = ConfigDict()
    config.lora.rank = 128  # paper
    config.lora.alpha = 512.0  # paper
    config.lora.dropout = 0.1  # LESS
    config.lora.targets = "q_proj,k_proj,v_proj,o_proj"  # names, patterns, all-linear (LESS)
    config.lora.rslora = False  # scale by alpha / sqrt(rank) instead of alpha / rank

    config.data = ConfigDict()
    # A file or saved data set of rows, or hf://owner/name; `skills`: the built-in world; see docs.
    config.data.pool = ""
    # One file a target, by commas, as a JSON list, or @FILE of names; `skills`: all its targets.
    config.data.validation = ""
    config.data.test = ""  # likewise, to measure with; its rows have an `answer`
    # Rows that cannot be learned from: drop (of the pool alone, at most 5 %, counted), or stop.
    config.data.bad_rows = "drop"
    # Fields by other names than those known, as in prompt=my_q,reply=my_a,system=sys; see docs.
    config.data.columns = ""
    # Date that a chat template writes, as 2026-01-31; empty: that of the work folder's first run.
    config.data.today = ""
    config.data.overlap = "report"  # pool rows that share words with a target's files; or remove

    config.world = ConfigDict()  # the built-in world; read if data.pool is `skills`
    config.world.seed = 0
    config.world.targets = "lookup_arithmetic,sorting_letters"  # by commas
    config.world.scale = 1.0  # times 3,200 rows
    config.world.wrong = 0.08  # share of rows with a wrong reply
    config.world.duplicates = 0.08  # near-copies, as a share of the rows
    config.world.validation_rows = 40  # per target
    config.world.test_rows = 200  # per target


def _features(config: ConfigDict) -> None:
    """Gradients of the rows, and their projection."""
    config.grads = ConfigDict()
    # adapter; or layers: of the base's own linear layers, by two-sided projection, which need no
    # warm-up, are of kind sgd alone (LoGra), and are taken once for all seeds of the run
    config.grads.of = "adapter"
    config.grads.layers = "all-linear"  # for grads.of = layers: by name, path or pattern
    config.grads.layer_width = 16  # K: rows of the projections of a layer's inputs and outputs
    # Of pool rows, for g2is, knn_even, tsds_knn, tsds_kde, uot, coverage, pursuit and gip: sgd,
    # adam, adam_less, rms, sign (ours)
    config.grads.kind = "sgd"
    config.grads.less_kind = "adam"  # of pool rows, for less, less_rr and bids (LESS)
    config.grads.validation_kind = "sgd"  # of validation rows (LESS)
    config.grads.checkpoints = (
        1  # of the warm-up, the newest; 0: all (LESS); each a pass of its own
    )
    config.grads.hidden_states = False  # extract_features: also the representations of RDS+
    config.grads.batch_tokens = 16384  # tokens a device and forward pass; 0: what memory allows
    config.grads.chunk_rows = 1024  # rows between done-marks
    # Keep no features of pool rows, only their cosines to validation rows: for less, less_rr, bids,
    # knn_even, tsds_knn, uot and coverage. Another target is another pass.
    config.grads.scores_only = False
    config.grads.dtype = "bfloat16"  # of the rows on disk: float32, bfloat16, int8, bits
    config.grads.folds = 0  # times that finished rows are folded to half their width
    # none; pool: rows are whitened by the pool's own second moment, on both sides of a cosine;
    # diagonal: by the diagonal of that moment alone
    config.grads.precondition = "none"
    config.grads.damping = 10.0  # of precondition, in mean eigenvalues of that moment (ours)

    config.projection = ConfigDict()
    config.projection.kind = "sketch"  # ours; or rademacher (LESS), none
    config.projection.width = 8192  # values a row (paper)
    config.projection.repetitions = 2  # of the sketch (ours)
    config.projection.seed = 0  # another projection of the same gradients; added to the run's


def _selection(config: ConfigDict) -> None:
    """The methods' settings, and the budget."""
    config.knowledge = ConfigDict()  # of method g2is (ours)
    config.knowledge.center = False
    config.knowledge.sign = "mean"  # of components; anchors of rows have none
    config.knowledge.keep = "variance"
    config.knowledge.keep_value = 0.7
    config.knowledge.unit_rows = True
    config.knowledge.anchors = "rows"  # validation rows as the components see them; or components
    config.graph = _exact_graph()
    config.walk = ConfigDict()  # of method g2is (ours)
    config.walk.delta = 0.8  # rule 6
    config.walk.delta_reference = "current"  # or anchor, best
    config.walk.pull = 1.0  # 0 follows the previous row alone, 1 the component alone
    config.walk.conflict_tolerance = 1.0  # cosine: no two rows are in conflict; paper: 0
    config.walk.conflict_worth = 0.8  # where rule 5 is on, it yields if it costs more; 0: never
    config.walk.max_similarity = 1.0  # cosine to a chosen row; 1 is off
    config.walk.on_exhausted = "relax"  # or stop, reanchor; with components also redistribute
    config.walk.order = "together"  # one walk for all directions; or components, one by one
    config.walk.fairness = 4.0  # 0: the mean direction; the larger, the more the least served one
    config.walk.drift = 1.0  # against rows that lead the chosen ones beside the target; 0: off

    config.paper = paper_preset()  # of method g2is_paper

    config.gist = ConfigDict()
    config.gist.rank = 50  # directions of the validation rows (its released scripts)

    config.embed = ConfigDict()
    # Folder or hub id of any encoder, with the extra [embed]; empty: the base's mean hidden state.
    config.embed.encoder = ""

    config.selection = ConfigDict()
    config.selection.budget = 0.05  # paper: 0.01, and 0.05
    config.selection.unit = "fraction"  # of the pool's usable rows; or rows, tokens (supervised)
    config.selection.source_cap = 1.0  # largest share of the budget that one source may take
    # Where features lie meanwhile: memory, disk; auto: disk if they fill more than half of memory.
    config.selection.memory = "auto"
    # Of several: each (a selection for each), joint (one for all), merged (their rows in turn).
    config.selection.targets = "each"


def _evaluation(config: ConfigDict) -> None:
    """The metrics and benchmarks of a tuned model."""
    config.evaluate = ConfigDict()
    config.evaluate.batch_tokens = 32768  # tokens a device and pass: padding, and room for replies
    config.evaluate.new_tokens = 512  # longest reply; 0: none is generated, answer loss alone
    # By commas, one a target or one for all: answer, gsm8k, math, bbh, mmlu, gpqa, gpqa_5shot; or
    # for rows of one's own exact_match, number, choice, mathematics, contains, f1, rouge_l
    config.evaluate.tasks = "answer"
    config.evaluate.shots_files = ""  # of worked rows, likewise; empty: a target's validation file
    config.evaluate.curves = False  # answer loss on validation rows after each epoch
    config.evaluate.adapter = "last"  # or best: of the epoch whose loss on validation rows is least
    # Tasks, groups, tags of lm-evaluation-harness, by commas: gsm8k,mmlu; empty: none
    config.evaluate.harness_tasks = ""
    config.evaluate.harness_include = ""  # of YAML tasks of your own; their Python code is run
    config.evaluate.harness_shots = -1  # examples before a question; -1: the task's own number
    config.evaluate.harness_limit = 0  # first rows of each task; 0: all
    config.evaluate.harness_chat = False  # prompts in the chat template; False: plain text


def paper_preset() -> ConfigDict:
    """G2IS as the paper's released script computes it."""
    preset = ConfigDict()
    preset.kind = "adam"  # of pool rows
    preset.knowledge = ConfigDict()
    preset.knowledge.center = True
    preset.knowledge.sign = "svd"
    preset.knowledge.keep = "variance"
    preset.knowledge.keep_value = 0.5
    preset.knowledge.unit_rows = False
    preset.knowledge.anchors = "components"
    preset.graph = _exact_graph()
    preset.walk = ConfigDict()
    preset.walk.delta = 0.8
    preset.walk.delta_reference = "current"
    preset.walk.pull = 0.0
    preset.walk.conflict_tolerance = 0.0
    preset.walk.conflict_worth = 0.0
    preset.walk.max_similarity = 1.0
    preset.walk.on_exhausted = "stop"
    preset.walk.order = "components"
    preset.walk.fairness = 0.0  # not read
    preset.walk.drift = 0.0  # not read
    return preset


def _exact_graph() -> ConfigDict:
    graph = ConfigDict()
    graph.kind = "exact"  # or knn
    graph.neighbours = 100  # stored for each row; read if kind is knn
    return graph


def _training(epochs: int, learning_rate: float, schedule: str) -> ConfigDict:
    training = ConfigDict()
    training.epochs = epochs
    training.batch_size = 128  # examples an optimiser step (LESS)
    training.microbatch_tokens = 16384  # tokens a device and forward pass, padding included
    training.packing = True  # short rows share a sequence, each blind to the others; not cudnn
    training.keep_checkpoints = 1  # the newest; one is written after each epoch
    training.learning_rate = learning_rate
    training.schedule = schedule  # linear, cosine, constant
    training.warmup = 0.03  # share of the steps in which the rate rises (LESS)
    training.weight_decay = 0.0  # LESS
    training.b1 = 0.9
    training.b2 = 0.999
    training.eps = 1e-8
    return training
