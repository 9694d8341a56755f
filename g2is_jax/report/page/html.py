"""A page as a single HTML file, which needs no other file and no network."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from g2is_jax.report.page.blocks import Page


def html(page: Page) -> str:
    """Writes the whole page; every text in it is escaped."""
    loader = PackageLoader("g2is_jax.report.page", "")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja").render(page=page)
