"""Zero-shot classification in the browser: drop a photo, see what decided, describe a new class.

    python app.py [MODEL] [--examples FOLDER]

MODEL, or the environment variable DEDN_MODEL, is a model folder or a Hub id; default runs/quickstart. FOLDER, or
DEDN_EXAMPLES, holds sample photos; default: the folder `examples` of the model. scoring.py has what the page computes
and views.py turns it into HTML. This file has the layout and the events.
"""

import argparse
import inspect
import os
import sys
from functools import partial
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported: it sends nothing then

import gradio as gr
import scoring
import views
from scoring import AVERAGE, NEVER, NONE_OF_THESE, NOTHING, PhotoScores
from transformers import PreTrainedModel

HERE = Path(__file__).parent
DRAWN = HERE / "examples"
DEFAULT_MODEL = "runs/quickstart"
NEW_NAME = "my new class"
NO_PHOTO = "Drop a photo or click on an example."
NO_DESCRIPTION = "Choose a trait, and the class joins the ranking."
RUNNER_UP = -1
HOUR = 3600
MOST_PHOTOS, MOST_EXAMPLES = 200, 12
SEVERAL = f"Up to {MOST_PHOTOS} photos. A class of your own takes part, and unknown is said, as with one photo."
MORE = f"These are the first {MOST_PHOTOS} of {{}} photos; the command dedn classify takes any number."
PICTURES = (".jpg", ".jpeg", ".png", ".webp")

# Fonts of the system, so that the page loads nothing from elsewhere; greys dark enough to read.
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
GREYS = ["body_text_color_subdued", "block_info_text_color", "block_label_text_color", "block_title_text_color"]
THEME = gr.themes.Default(primary_hue="blue", **FONTS).set(
    slider_color="*primary_600",
    **dict.fromkeys(GREYS, "*neutral_600"),
    **dict.fromkeys([f"{grey}_dark" for grey in GREYS], "*neutral_300"),
)
LAUNCH = {
    "theme": THEME,
    "css_paths": HERE / "style.css",
    "footer_links": [],
    "allowed_paths": [str(DRAWN)],
    "max_file_size": "20mb",
    "ssr_mode": False,
}


class Page:
    """The page of one model. The state of a visit: the scores of the photo, and the positions of the controls."""

    def __init__(self, model: PreTrainedModel, source: str, examples: Path | None = DRAWN) -> None:
        self.model, self.source, self.table, self.examples = model, source, model.attribute_table, examples
        names = self.table.attribute_names
        groups = self.table.attribute_groups or [""] * len(names)
        self.spoken = {name: views.spoken(name, group) for name, group in zip(names, groups, strict=True)}
        self.controls = scoring.controls(self.table)
        self.spoken_traits = {name: self.spoken.get(name) or views.spoken(name) for name in self.controls}

    # Events ---------------------------------------------------------------------------------------------------------

    def photo_changed(self, photo: dict | None, *form) -> tuple:
        """A new photo, or none: read it, and refresh everything. `form` as in `results`."""
        photo_scores, problem, attribute = None, gr.update(visible=False), self.table.attribute_names[0]
        if photo:
            try:
                photo_scores = scoring.score_photo(self.model, scoring.open_photo(self.model, photo["path"]))
                attribute = self.table.attribute_names[
                    scoring.strongest_attribute(self.model, photo_scores, self.table)
                ]
            except ValueError as error:
                problem = gr.update(value=views.alert(str(error)), visible=True)
        return (
            photo_scores,
            problem,
            attribute,
            *self.results(photo_scores, *form),
            *self.heat_maps(photo_scores, attribute),
        )

    def results(
        self,
        photo_scores: PhotoScores | None,
        name: str,
        start: int,
        chosen: list[str],
        settings: dict,
        other: int,
        least: float | None = NEVER,
    ) -> tuple[str, str, str, str]:
        """For a photo and a description: the ranking, what decided, a note on the new class, and its JSON.

        Args:
            name: of the new class. start: what its description starts from: AVERAGE, NOTHING or a class. chosen: the
                traits that differ from that. settings: trait -> position of its control. other: the class to compare
                the best one with, or RUNNER_UP. least: the probability below which the answer is unknown, or NEVER.
        """
        table, note = self.candidates(name, start, chosen, settings)
        described = len(table) > len(self.table)
        copied = scoring.candidate_labels(table) if described else ""
        if photo_scores is None:
            return views.hint(NO_PHOTO), "", note, copied
        logits = scoring.class_logits(self.model, photo_scores, table)
        order, scores = (-logits).argsort(kind="stable").tolist(), scoring.probabilities(self.model, logits)
        if described:
            note = views.place(table, order, scores)
        return (
            views.ranking(table, order, scores, len(self.table), self.unknown(photo_scores, logits, least)),
            self.why(photo_scores, table, order, other),
            note,
            copied,
        )

    def unknown(self, photo_scores: PhotoScores, logits, least: float | None) -> str:
        """Why there is no answer; '' where there is one."""
        least = NEVER if least is None else least
        reason = scoring.why_unknown(self.model, photo_scores, logits, least)
        if reason == NONE_OF_THESE:
            return "the photo seems to show none of these classes"
        return reason and f"an answer needs {least:.1%}"

    def candidates(self, name: str, start: int, chosen: list[str], settings: dict) -> tuple:
        """The model's classes, with the new one if it is described, and a note about it."""
        if not chosen and start in (AVERAGE, None):
            return self.table, views.hint(NO_DESCRIPTION)
        values = {trait: settings.get(trait, self.controls[trait].start) for trait in chosen}
        try:
            row = scoring.describe(self.table, AVERAGE if start is None else start, values)
            return scoring.with_class(self.table, name, row), views.hint("Described; a photo shows its place.")
        except ValueError as error:
            return self.table, views.alert(str(error))

    def why(self, photo_scores: PhotoScores, table, order: list[int], other: int) -> str:
        """What decided between the best class and another one."""
        if len(order) < 2:
            return views.hint("There is only one class, so there was nothing to decide.")
        if other not in order[1:]:
            other = order[1]
        parts, bias = scoring.contributions(self.model, photo_scores, table, order[0], other)
        return views.why(table, list(self.spoken.values()), order[0], other, parts, bias)

    def heat_maps(self, photo_scores: PhotoScores | None, attribute: str | None) -> list:
        """An update for every expert's picture."""
        experts = self.model.config.expert_names
        if photo_scores is None or photo_scores.region_maps is None or attribute is None:
            return [gr.update(value=None, **alt_text("")) for _ in experts]
        a = self.table.attribute_names.index(attribute)
        pictures = [scoring.heat_map(photo_scores, i, a) for i in range(len(experts))]
        return [
            gr.update(
                value=picture,
                **alt_text(f"The photo in grey, orange where the {expert} expert found {self.spoken[attribute]}"),
            )
            for picture, expert in zip(pictures, experts, strict=True)
        ]

    def control_moved(self, trait: str, value: float | str | None, photo_scores: PhotoScores | None, *form) -> tuple:
        """A slider or a drop-down moved: remember its position, and update the results."""
        name, start, chosen, settings, *others = form
        if value is not None:  # as while a number is being typed
            settings = {**settings, trait: value}
        return settings, *self.results(photo_scores, name, start, chosen, settings, *others)

    def several(self, paths: list[str] | None, *form) -> tuple:
        """A table of answers about several photos, and the file to download. `form` as in `results`."""
        if not paths:
            return [], gr.update(visible=False), gr.update(visible=False)
        name, start, chosen, settings, _, least = form
        table, _ = self.candidates(name, start, chosen, settings)
        rows = [
            scoring.answer_row(self.model, table, path, NEVER if least is None else least)
            for path in paths[:MOST_PHOTOS]
        ]
        file = scoring.write_answers(rows, Path(paths[0]).with_name("answers.csv"))  # deleted with the photos
        return (
            [[row[column] for column in scoring.ANSWER_COLUMNS] for row in rows],
            gr.update(value=file, visible=True),
            gr.update(value=views.alert(MORE.format(len(paths))), visible=len(paths) > MOST_PHOTOS),
        )

    # Layout ---------------------------------------------------------------------------------------------------------

    def build(self) -> gr.Blocks:
        """The page; `launch(**LAUNCH)` shows it."""
        with gr.Blocks(title="Zero-shot classification", analytics_enabled=False, delete_cache=(HOUR, HOUR)) as page:
            self.photo_scores, self.settings = gr.State(time_to_live=HOUR), gr.State({})
            gr.HTML(views.heading(self.source, self.table))
            with gr.Tabs():
                with gr.Tab("One photo"), gr.Row():
                    with gr.Column(scale=2, min_width=300):
                        with gr.Row():
                            with gr.Column(min_width=300):
                                self.build_photo()
                            with gr.Column(min_width=300):
                                self.build_result()
                        self.build_heat_maps()
                    with gr.Column(scale=1, min_width=300):
                        self.build_new_class()
                with gr.Tab("Several photos"):
                    self.build_several()
                if measured := scoring.confidence_of(self.source):
                    with gr.Tab("Confidence"):
                        build_confidence(measured)
            self.connect()
        return page

    def build_photo(self) -> None:
        """Where a photo is dropped, and the examples."""
        gr.HTML("<h2>1. A photo</h2>")
        self.photo = gr.Image(
            label="Photo",
            sources=["upload", "clipboard"],
            height=300,
            buttons=[],
            **alt_text("The photo"),
            elem_id="photo",
        )
        with gr.Row(elem_id="examples"):
            for path in example_pictures(self.examples):
                button = gr.Button(path.stem, icon=path, elem_classes="example", min_width=80)
                button.click(partial(str, path), None, self.photo, show_progress="hidden")

    def build_result(self) -> None:
        """The answer: the best classes, the reasons, and where the experts look."""
        gr.HTML("<h2>2. What is it, and why?</h2>")
        self.problem = gr.HTML(visible=False, elem_id="problem")
        self.ranking = gr.HTML(views.hint(NO_PHOTO), elem_id="ranking")
        self.reasons = gr.HTML(elem_id="reasons")
        self.least = gr.Dropdown(
            confidences(self.model.config), value=NEVER, label="Say unknown, unless", elem_id="least"
        )
        rivals = [("the runner-up", RUNNER_UP), *self.classes(), ("your new class", len(self.table))]
        self.other = gr.Dropdown(rivals, value=RUNNER_UP, label="Compare the best class with", elem_id="other")

    def build_heat_maps(self) -> None:
        gr.HTML("<h2>3. Where did it look?</h2>")
        self.attribute = gr.Dropdown(self.attributes(), label="Attribute", info="Type to search.", elem_id="attribute")
        with gr.Row():
            self.maps = [
                gr.Image(label=f"{expert.capitalize()} expert", interactive=False, buttons=[], min_width=220)
                for expert in self.model.config.expert_names
            ]
        gr.HTML(views.EXPERTS_HINT)

    def build_new_class(self) -> None:
        """The panel that describes a class: name, start, attributes and their sliders."""
        gr.HTML("<h2>4. A class of your own</h2>")
        self.name = gr.Textbox(NEW_NAME, label="Its name", max_length=60, elem_id="name")
        starts = [("the average of all classes", AVERAGE), ("nothing: every attribute 0", NOTHING), *self.classes()]
        self.start = gr.Dropdown(starts, value=AVERAGE, label="It is like …", elem_id="start")
        self.chosen = gr.Dropdown(
            [(spoken, name) for name, spoken in self.spoken_traits.items()],
            multiselect=True,
            label="… but for these traits",
            info="Type to search. Each gets a slider, which starts at its highest value, or a list of what it can be.",
            elem_id="chosen",
        )
        self.note = gr.HTML(views.hint(NO_DESCRIPTION), elem_id="note")
        self.sliders = gr.Column(elem_id="sliders")
        self.reset = gr.Button("Start again", size="sm")
        with gr.Accordion("For the pipeline (JSON)", open=False):
            self.copied = gr.Code(
                label="candidate_labels", language="json", interactive=False, max_lines=12, elem_id="copied"
            )

    def build_several(self) -> None:
        """Photos in, a table out."""
        gr.HTML(views.hint(SEVERAL))
        self.photos = gr.File(
            label="Photos", file_count="multiple", file_types=list(PICTURES), height=160, elem_id="photos"
        )
        self.limit = gr.HTML(visible=False)
        with gr.Row():
            self.again = gr.Button("Answer again", size="sm")
            self.download = gr.DownloadButton("Download as CSV", visible=False, size="sm", elem_id="download")
        self.answers = gr.Dataframe(
            headers=list(scoring.ANSWER_COLUMNS), label="Answers", interactive=False, wrap=True, elem_id="answers"
        )

    def classes(self) -> list[tuple[str, int]]:
        """Choices of a dropdown."""
        return [(name, k) for k, name in enumerate(self.table.class_names)]

    def attributes(self) -> list[tuple[str, str]]:
        """Choices of a dropdown."""
        return [(spoken, name) for name, spoken in self.spoken.items()]

    def connect(self) -> None:
        """Connect events to what they change."""
        form = [self.name, self.start, self.chosen, self.settings, self.other, self.least]
        shown = [self.ranking, self.reasons, self.note, self.copied]
        no_spinner = {"show_progress": "hidden", "trigger_mode": "always_last"}
        # preprocess=False: gradio would open the file itself, and stop at a broken one without saying what is wrong.
        seen = [self.photo_scores, self.problem, self.attribute, *shown, *self.maps]
        self.photo.change(
            self.photo_changed, [self.photo, *form], seen, preprocess=False, show_progress_on=self.ranking
        )
        edits = [part.change for part in (self.name, self.start, self.chosen, self.other, self.least)]
        gr.on(edits, self.results, [self.photo_scores, *form], shown, **no_spinner)
        gr.on(
            [self.photos.change, self.again.click],
            self.several,
            [self.photos, *form],
            [self.answers, self.download, self.limit],
            show_progress_on=self.answers,
        )
        self.attribute.input(self.heat_maps, [self.photo_scores, self.attribute], self.maps, **no_spinner)
        blank = [self.name, self.start, self.chosen, self.settings]
        self.reset.click(lambda: (NEW_NAME, AVERAGE, [], {}), None, blank, show_progress="hidden")

        with self.sliders:

            @gr.render([self.chosen, self.settings], triggers=[self.chosen.change], show_progress="hidden")
            def draw_controls(chosen: list[str], settings: dict) -> None:
                """A control for each chosen trait: a list for a category, a slider for a number."""
                for trait in chosen:
                    control, label = self.controls[trait], self.spoken_traits[trait]
                    label, value = f"{label}, {control.unit}".strip(", "), settings.get(trait, control.start)
                    part = (
                        gr.Dropdown(list(control.choices), value=value, label=label, interactive=True)
                        if control.choices
                        else gr.Slider(
                            control.low, control.high, value, step=control.step, label=label, interactive=True
                        )
                    )
                    inputs, outputs = [part, self.photo_scores, *form], [self.settings, *shown]
                    part.input(partial(self.control_moved, trait), inputs, outputs, **no_spinner)


def build_confidence(measured: dict) -> None:
    """What the training measured of the confidence, in words and as a diagram."""
    gr.HTML(views.confidence(measured["sentences"]))
    if measured["picture"]:
        gr.Image(
            measured["picture"],
            interactive=False,
            buttons=[],
            show_label=False,
            **alt_text(views.DIAGRAM),
            elem_id="trust",
        )


def alt_text(text: str) -> dict[str, str]:
    """The argument that describes a picture to those who hear the page; none where this gradio has no such."""
    return {"alt_text": text} if "alt_text" in inspect.signature(gr.Image).parameters else {}


def confidences(config) -> list[tuple[str, float]]:
    """Choices of a dropdown: below which probability the answer is unknown. With 0, it is for pictures of none."""
    chosen = [
        (f"answers are right in {precision:.0%}, as estimated", threshold)
        for precision, threshold in config.precision_thresholds or ()
    ]
    none = [("the photo shows one of the classes", 0.0)] if getattr(config, "none_of_these", None) else []
    return [
        ("never", NEVER),
        *none,
        *(chosen or [(f"the best class has {share:.0%}", share) for share in (0.5, 0.8, 0.95)]),
    ]


def example_pictures(folder: Path | None) -> list[Path]:
    """The first pictures of a folder, by name."""
    if folder is None:
        return []
    return [path for path in sorted(folder.iterdir()) if path.suffix.lower() in PICTURES][:MOST_EXAMPLES]


def examples_folder(source: str, given: str | None, class_names: list[str]) -> Path | None:
    """The user's sample photos: `given`, or those of the model; the drawn ones for a model of drawn creatures only."""
    own = Path(given or Path(source) / "examples")
    if own.is_dir():
        return own
    if given:
        sys.exit(f"There is no folder {given}. Name one with sample photos.")
    return DRAWN if any(name.startswith("creature") for name in class_names) else None


def main() -> None:
    """Load the model and serve the page."""
    parser = argparse.ArgumentParser(description="Zero-shot classification in the browser.")
    parser.add_argument("model", nargs="?", default=os.environ.get("DEDN_MODEL", DEFAULT_MODEL), metavar="MODEL")
    parser.add_argument("--examples", default=os.environ.get("DEDN_EXAMPLES"), metavar="FOLDER")
    arguments = parser.parse_args()
    try:
        model = scoring.load_model(arguments.model)
    except ValueError as error:
        sys.exit(f"{error} `make quickstart` makes one in {DEFAULT_MODEL}; or name a folder or a Hub id.")
    examples = examples_folder(arguments.model, arguments.examples, model.attribute_table.class_names)
    allowed = {"allowed_paths": [str(examples)] if examples else []}
    Page(model, arguments.model, examples).build().launch(**LAUNCH | allowed)


if __name__ == "__main__":
    main()
