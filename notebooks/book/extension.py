"""What Sphinx does here beside the usual: pages of the core, the table of claims, words
for figures, an index of terms, formulas without a script."""

from __future__ import annotations

from docutils import nodes
from latex2mathml.converter import convert
from pages import HERE, claims, core, term_pattern, terms, without_links
from sphinx.addnodes import index
from sphinx.transforms import SphinxTransform
from sphinx.util.inspect import signature, stringify_signature

API = HERE / "api"  # written by every build, not kept


def write_core(app, config) -> None:
    """A page for every module of the core."""
    API.mkdir(exist_ok=True)
    for place, module in enumerate(core()):
        name = module.removeprefix("lemur_mini.")
        text = f"{name}\n{'=' * len(name)}\n\n.. automodule:: {module}\n"
        if name == "config":  # its comments say what a field is
            text += f"\n.. literalinclude:: /{module.replace('.', '/')}.py\n"
            text += "   :pyobject: Config\n"
        (API / f"{place:02}_{name}.rst").write_text(text, "utf-8")


def own_signature(app, what, name, thing, options, arguments, returns):
    """What a class is made with: of a mocked base one would see *args alone."""
    if what != "class" or not arguments or "*args" not in arguments:
        return None
    made = vars(thing).get("__init__")
    if made is None:
        return "", None
    known = signature(made, bound_method=True)
    return stringify_signature(known, unqualified_typehints=True), None


PDF_LINK = 'The whole book as <a href="../../lemur_mini.pdf">one PDF</a>.'


def fill(app, name: str, source: list[str]) -> None:
    """The table of claims, the link to the PDF where there is one, and no link to what
    is read in the repository alone."""
    source[0] = source[0].replace("<!-- every claim -->", claims())
    source[0] = without_links(source[0])
    if app.tags.has("pdf"):
        source[0] = source[0].replace("<!-- pdf -->", PDF_LINK)


def describe(app, tree: nodes.document) -> None:
    """A figure's alternative text is the line *Figure: ...* that follows it."""
    said = [
        node.astext().removeprefix("Figure: ")
        for node in tree.findall(nodes.emphasis)
        if node.astext().startswith("Figure: ")
    ]
    shown = [image for image in tree.findall(nodes.image) if not image.get("alt")]
    for image, text in zip(shown, said, strict=False):
        image["alt"] = text


class IndexTerms(SphinxTransform):
    """An entry of the index where a page first speaks of a term of the glossary."""

    default_priority = 700  # before Sphinx collects entries

    def apply(self) -> None:
        """Put a target and an entry before each of these paragraphs."""
        if self.env.docname.startswith(
            ("notebooks/book/glossary", "notebooks/book/api")
        ):
            return
        title = next(iter(self.document.findall(nodes.title)), nodes.title()).astext()
        passages = list(self.document.findall(nodes.paragraph))
        for term in terms():
            pattern = term_pattern(term)
            found = (p for p in passages if pattern.search(p.astext()))
            if (passage := next(found, None)) is not None:
                target = f"term-{nodes.make_id(term)}"
                passage["ids"].append(target)
                entry = ("single", f"{term}; {title}", target, "", None)
                place = passage.parent.index(passage)
                passage.parent.insert(place, index(entries=[entry]))


def inline_formula(self, node: nodes.math) -> None:
    """MathML, which browsers draw by themselves."""
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def display_formula(self, node: nodes.math_block) -> None:
    """The same on a line of its own."""
    formula = convert(node.astext(), display="block")
    self.body.append(f'<div class="formula">{formula}</div>')
    raise nodes.SkipNode


def setup(app) -> None:
    """Called by Sphinx."""
    app.add_html_math_renderer(
        "mathml", (inline_formula, None), (display_formula, None)
    )
    app.connect("config-inited", write_core)
    app.connect("source-read", fill)
    app.connect("doctree-read", describe)
    app.connect("autodoc-process-signature", own_signature)
    app.add_transform(IndexTerms)
    app.add_js_file("claims.js", loading_method="defer")
