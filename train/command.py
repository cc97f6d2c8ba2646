"""`pure train`, with its steps in the order in which they make a model, and `pure plot`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro
from tyro.conf import subcommand

from pure_jax.config import PRESETS, ModelConfig, SamplingConfig, from_dict
from pure_jax.errors import PureError
from pure_jax.train.cluster import ClusterConfig
from pure_jax.train.config import LanguageModelTrainConfig, TextConfig, VQGANTrainConfig
from pure_jax.train.nsarm.command import ExportNsarm, TrainMap, TrainScales
from pure_jax.train.reading import read_names, read_words
from pure_jax.train.running import RunOptions

if TYPE_CHECKING:
    from pure_jax.train.recipes.language_model import LanguageModelRecipe

RESUMES = "the same command continues from the last checkpoint"


def _preset(name: str) -> ModelConfig:
    if name not in PRESETS:
        raise PureError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]()


@dataclass(frozen=True)
class TrainTokenizer:
    """Train the text tokenizer on the photos' captions."""

    photos: Path
    """Folder of photographs with captions.jsonl; its train split is read."""
    out: Path = Path("runs/tokenizer.json")
    """Tokenizer file to write."""
    preset: str = "demo"
    """Model preset that says how many image codes need a token."""
    text_vocab: int = 900
    """Number of tokens for text."""

    def run(self) -> None:
        from pure_jax.files import replacing, require_writable
        from pure_jax.train.data.photos import load_photos
        from pure_jax.train.tokenizer import train_tokenizer

        require_writable(self.out)
        captions = [photo.caption for photo in load_photos(self.photos) if photo.caption]
        codebook = _preset(self.preset).vqgan.codebook_size
        tokenizer = train_tokenizer(captions, codebook_size=codebook, text_vocab=self.text_vocab)
        with replacing(self.out) as beside:
            beside.write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
        print(f"{self.out}: {tokenizer.get_vocab_size()} ids from {len(captions)} captions")


@dataclass(frozen=True)
class TrainVQGAN:
    """Train the image tokenizer on crops of photographs; resumes where --out left off."""

    photos: Path
    """Folder of photographs (with captions.jsonl: its train split)."""
    out: Path = Path("runs/vqgan")
    """Folder for checkpoints, metrics.jsonl and samples."""
    preset: str = "demo"
    """Model preset whose tokenizer sizes are used."""
    running: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)
    cluster: Annotated[ClusterConfig, tyro.conf.arg(name="")] = field(default_factory=ClusterConfig)
    train: Annotated[VQGANTrainConfig, tyro.conf.arg(name="")] = field(default_factory=VQGANTrainConfig)
    interrupted: ClassVar[str] = RESUMES

    def run(self) -> None:
        from pure_jax.train.data.photos import load_photos
        from pure_jax.train.stages import train_vqgan

        preset = _preset(self.preset)
        self.cluster.join()
        run = self.running.opened(self.out)
        train_vqgan(load_photos(self.photos, minimum=self.train.crop * 2), preset, self.train, run)


@dataclass(frozen=True)
class TrainLanguageModel:
    """Train the transformer on records; resumes where --out left off."""

    records: tuple[Path, ...] = (Path("runs/records"),)
    """Folders that `pure tokenize` made."""
    weights: tuple[float, ...] = ()
    """How much of each folder is read, one number for each; by default as much as there is in it."""
    val_records: Path | None = None
    """Folder of records that are not trained on: at every checkpoint their loss is logged (val_loss), and a few of them
    are restored, in samples/ of --out."""
    val_batches: int = 4
    """Batches of them that are read each time."""
    tokenizer: Path = Path("runs/tokenizer.json")
    """--out of `pure train tokenizer`."""
    vqgan: Path = Path("runs/vqgan")
    """The image tokenizer of the records; its codebook starts the image codes' embeddings."""
    captions: Path | None = None
    """JSON lines with key and caption, which replace those of the records."""
    scores: Path | None = None
    """JSON lines with key, variant, blur and noise, for --labels file."""
    thresholds: Path | None = None
    """JSON file of another run, thresholds.json, with its level borders; by default terciles of these records."""
    out: Path = Path("runs/lm")
    """Folder for checkpoints and metrics.jsonl."""
    preset: str = "demo"
    """Model preset whose transformer sizes are used."""
    recipe: str | None = None
    """pure_7b, pure_7b_lora, demo, tiny, or a .json file: sizes, training and mesh, instead of --preset and the options
    below."""
    set: tuple[str, ...] = ()
    """Values of the recipe to change, each PART.FIELD=VALUE, such as train.batch=64 train.lora.rank=16."""
    start: str | None = None
    """Begin with a model's weights: a directory or hub id, of this library or in Hugging Face's layout."""
    new_rows: Literal["keep", "codebook", "gaussian", "resample"] = "keep"
    """How ids begin that --start does not have: like the old image rows, by the codebook (keep: those only; codebook:
    all image codes), N(0, 0.02), or drawn around the old rows."""
    running: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=lambda: RunOptions(save_every=100))
    cluster: Annotated[ClusterConfig, tyro.conf.arg(name="")] = field(default_factory=ClusterConfig)
    text: Annotated[TextConfig, tyro.conf.arg(name="")] = field(default_factory=TextConfig)
    train: Annotated[LanguageModelTrainConfig, tyro.conf.arg(name="")] = field(default_factory=LanguageModelTrainConfig)
    interrupted: ClassVar[str] = RESUMES

    def run(self) -> None:
        from pure_jax.train.data.image_tokenizer import load_image_tokenizer
        from pure_jax.train.data.records import open_records
        from pure_jax.train.examples import require_fitting
        from pure_jax.train.opening import open_batches
        from pure_jax.train.stages import train_language_model
        from pure_jax.train.start import Start
        from pure_jax.train.validation import Validation

        recipe = self.followed()
        self.cluster.join()
        run = self.running.opened(self.out, recipe.mesh)
        image_tokenizer = load_image_tokenizer(self.vqgan)
        source = open_batches(
            self.records, self.weights, self.text, self.captions, self.scores, self.thresholds, self.out
        )
        require_fitting(source.sets, image_tokenizer, self.vqgan, recipe.model)
        validation = None
        if self.val_records is not None:
            if self.val_batches < 1:
                raise PureError(f"val_batches is {self.val_batches}, but it must be 1 or more")
            held = replace(source, sets=[open_records(self.val_records)], weights=[1.0])
            require_fitting(held.sets, image_tokenizer, self.vqgan, recipe.model)
            validation = Validation(held, self.val_batches, image_tokenizer.params)
        train_language_model(
            source,
            source.thresholds,
            recipe.model,
            recipe.train,
            self.tokenizer,
            image_tokenizer.codebook,
            run,
            None if self.start is None else Start(self.start, self.new_rows),
            validation,
        )

    def followed(self) -> LanguageModelRecipe:
        """The recipe, or what the options say instead of one."""
        from pure_jax.train.recipes.language_model import LanguageModelRecipe, language_model_recipe

        if self.recipe is None:
            if self.set:
                raise PureError("--set changes a recipe's values; name it with --recipe, or use the options themselves")
            return LanguageModelRecipe(_preset(self.preset), self.train)
        if self.train != LanguageModelTrainConfig():
            raise PureError("with --recipe, training options are written --set train.NAME=VALUE")
        return language_model_recipe(self.recipe, self.set)


@dataclass(frozen=True)
class Speed:
    """Time a recipe's training step on the devices that are here, with random weights and tokens."""

    recipe: str = "pure_1b"
    """pure_7b, pure_7b_lora, pure_1b, demo, tiny, or a .json file."""
    set: tuple[str, ...] = ()
    """Values of the recipe to change, each PART.FIELD=VALUE, such as train.batch=8 train.remat=full."""
    mesh: str | None = None
    """Devices to spread over; by default the first one alone."""
    steps: int = 10
    """Updates to time, behind the first one; their median is told."""
    largest: bool = False
    """Find out too with how many layers the step still fits one device."""
    json: bool = False
    """Print JSON instead of text."""

    def run(self) -> None:
        from pure_jax.train.recipes.language_model import language_model_recipe
        from pure_jax.train.speed import largest, measure, text_of

        if self.steps < 1:
            raise PureError(f"steps is {self.steps}, but it must be 1 or more")
        recipe = language_model_recipe(self.recipe, self.set)
        found = measure(recipe, self.mesh, self.steps)
        if self.largest:
            found["largest"] = largest(recipe)
        print(json.dumps(found, indent=1) if self.json else text_of(found))


@dataclass(frozen=True)
class Export:
    """Write a model directory from finished (or running) training runs."""

    out: Path
    """New model directory; it appears when all is done, or not at all."""
    tokenizer: Path = Path("runs/tokenizer.json")
    """--out of `pure train tokenizer`."""
    vqgan: Path = Path("runs/vqgan")
    """--out of `pure train vqgan`, or another image tokenizer that `pure tokenize` took."""
    lm: Path = Path("runs/lm")
    """--out of `pure train lm`."""
    preset: str = "demo"
    """Model preset that was trained."""
    recipe: str | None = None
    """Recipe that was followed, instead of --preset."""
    set: tuple[str, ...] = ()
    """Its values that were changed, as in `pure train lm`."""
    adapters: bool = False
    """Write LoRA's adapters alone, as Hugging Face's PEFT reads them; without it they are merged into the model."""
    card: Path | None = None
    """README.md of the model directory."""
    sampling: Path | None = None
    """JSON object with sampling defaults that differ from the preset's."""
    dtype: str = "bfloat16"
    """Of the parameters that are written: float32, bfloat16 or float16."""

    def run(self) -> None:
        import dataclasses

        from pure_jax.checkpoint import DTYPES, save
        from pure_jax.train.data.image_tokenizer import load_image_tokenizer
        from pure_jax.train.lora import save_peft
        from pure_jax.train.recipes.language_model import language_model_recipe
        from pure_jax.train.runs import Run
        from pure_jax.train.start import adaptation_of, trained_params
        from pure_jax.vocabulary import load_vocabulary

        config = _preset(self.preset)
        if self.recipe is not None:
            config = language_model_recipe(self.recipe, self.set).model
        if self.adapters:
            start, lora, _ = adaptation_of(Run(self.lm))
            save_peft(self.out, Run(self.lm).params(), lora, start.model)
            print(f"{self.out}: adapters of {start.model}")
            return
        if self.dtype not in DTYPES[1:]:
            raise PureError(f"dtype is {self.dtype!r}, but it must be one of {', '.join(DTYPES[1:])}")
        if self.sampling is not None:
            try:
                changes = json.loads(read_words(self.sampling))
            except ValueError as error:
                raise PureError(f"{self.sampling} is not JSON: {error}") from error
            if not isinstance(changes, dict):
                raise PureError(f"{self.sampling} must hold a JSON object, not {type(changes).__name__}")
            sampling = from_dict(SamplingConfig, asdict(config.sampling) | changes, str(self.sampling))
            config = dataclasses.replace(config, sampling=sampling)
        tokenizer, card = (
            read_words(self.tokenizer),
            read_words(self.card) if self.card else "# A model made by pure-jax\n",
        )
        vqgan = load_image_tokenizer(self.vqgan).params
        vocabulary = load_vocabulary(self.tokenizer, config.codes_per_grid, config.vqgan.codebook_size)
        transformer = trained_params(Run(self.lm), config, vocabulary, vqgan["quantizer"]["codebook"])
        params = {"transformer": transformer, "vqgan": vqgan}
        save(self.out, config, params, tokenizer, card, dtype=self.dtype)
        print(f"{self.out}: {sum(f.stat().st_size for f in self.out.iterdir()) / 1e6:.1f} MB")


@dataclass(frozen=True)
class TrainDemo:
    """Make a whole model from photos, all stages, tables and card included; resumes where it stopped."""

    photos: Path
    """Folder of photographs with captions.jsonl, which names their splits (train, val), licences and authors."""
    out: Path = Path("runs/demo")
    """Folder for everything that is made; the model directory and the table are in it when all is done."""
    recipe: str = "demo"
    """demo, or tiny for a try in a minute; nsarm or nsarm-tiny for a model of that family."""
    hours: float | None = None
    """Stop cleanly after this time; the same command goes on. By default no limit."""
    val_names: Path | None = None
    """Text file with the names of the photos for the table, one a line; by default the whole val split."""
    niqe: Path | None = None
    """NIQE's pristine model, an .npz file; by default BasicSR's, which ships with this package."""
    start: str | None = None
    """Train a finished model on: a directory or hub id, of the recipe's sizes. Its tokenizers stay, its language model
    and its decoder go on. Only for recipes of PURE's family."""
    set: tuple[str, ...] = ()
    """Values of the recipe to change, each PART.FIELD=VALUE, such as lm.drift=0.4; with --start, seed=1 draws other
    crops than that model has read."""
    steps: tuple[str, ...] = ()
    """Steps of networks instead of the recipe's, such as lm=9000 vqgan=4000; they may be changed until a network's last
    steps have begun. The recipes' networks are vqgan, lm and decoder; NSARM's vae, map_network and scales."""
    allow_change: bool = False
    """Go on though the recipe is another one than the run was begun with: finished stages stay as they are."""
    interrupted: ClassVar[str] = RESUMES

    def run(self) -> None:
        import time

        from pure_jax.train.demo import DemoRun
        from pure_jax.train.nsarm.recipes import NSARM_RECIPES
        from pure_jax.train.nsarm.run import NsarmRun
        from pure_jax.train.recipes import RECIPES, with_steps
        from pure_jax.train.recipes.changes import with_changes
        from pure_jax.train.staged import TimeIsUp
        from pure_jax.train.start import located

        known = RECIPES | NSARM_RECIPES
        if self.recipe not in known:
            raise PureError(f"there is no recipe {self.recipe!r}; choose one of {', '.join(known)}")
        if self.hours is not None and not self.hours > 0:
            raise PureError(f"{self.hours} hours are no time to train; give more than 0")
        kind = DemoRun if self.recipe in RECIPES else NsarmRun
        recipe = with_changes(known[self.recipe](), self.set, f"the recipe {self.recipe}")
        recipe = with_steps(recipe, self.steps, kind.networks)
        if self.start is not None:
            if kind is not DemoRun:
                raise PureError(f"--start is for recipes of PURE's family, and {self.recipe} is none")
            recipe = replace(recipe, start=located(self.start))
        deadline = None if self.hours is None else time.monotonic() + self.hours * 3600
        names = read_names(self.val_names)
        run = kind(self.photos, self.out, recipe, names, self.niqe, deadline, self.allow_change)
        try:
            print(f"{run.run(self.words())}: finished")
        except TimeIsUp as stage:
            print(f"{self.out}: the time is up in the stage {stage}; the same command goes on from there")

    def words(self) -> str:
        """The command with all options that are not the default, as it can be given again."""
        import shlex

        options = ["pure", "train", "demo"]
        for own in fields(self):
            value = getattr(self, own.name)
            if value != own.default:
                given = () if value is True else value if isinstance(value, tuple) else (value,)
                options += [f"--{own.name.replace('_', '-')}", *map(str, given)]
        return shlex.join(options)


@dataclass(frozen=True)
class Train:
    """Make a model: all at once (demo), or in steps: tokenizer, vqgan, lm (on records of `pure tokenize`), export; one
    of NSARM's: map, scales, export-nsarm.

    speed times a training step."""

    step: Annotated[
        Annotated[TrainDemo, subcommand("demo")]
        | Annotated[TrainTokenizer, subcommand("tokenizer")]
        | Annotated[TrainVQGAN, subcommand("vqgan")]
        | Annotated[TrainLanguageModel, subcommand("lm")]
        | Annotated[Export, subcommand("export")]
        | Annotated[Speed, subcommand("speed")]
        | Annotated[TrainMap, subcommand("map")]
        | Annotated[TrainScales, subcommand("scales")]
        | Annotated[ExportNsarm, subcommand("export-nsarm")],
        tyro.conf.arg(name=""),
    ]

    @property
    def interrupted(self) -> str | None:
        return getattr(self.step, "interrupted", None)

    def run(self) -> None:
        self.step.run()


@dataclass(frozen=True)
class Plot:
    """Draw what a training run has logged: losses, accuracies, learning rate, gradients, over the steps."""

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """--out of a network's training, or one of the folders in that of `pure train demo`."""
    out: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[OUT]")] = None
    """PNG file; by default metrics.png in the run's folder."""
    overwrite: bool = False
    """Replace a file that is not the default one."""

    def run(self) -> None:
        from pure_jax.files import refuse_existing, require_writable
        from pure_jax.train.plot import plot_run, read_metrics

        read_metrics(self.run_folder)
        out = self.out or self.run_folder / "metrics.png"
        if self.out is not None:
            if out.suffix.lower() != ".png":
                raise PureError(f"the plot {str(out)!r} must be a .png file")
            refuse_existing(out, self.overwrite)
        require_writable(out)
        print(f"{out}: {', '.join(plot_run(self.run_folder, out))}")
