"""The book, from the repository as it is; no notebook is executed.

python notebooks/book/build.py          the site: build/book/site/index.html
python notebooks/book/build.py --pdf    the PDF too, printed by Chromium, Chrome or Edge

What it needs: pip install -c constraints.txt --group book (pip 25.1 or newer)."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from links import problems

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILT = ROOT / "build" / "book"
PDF = BUILT / "lemur_mini.pdf"
BROWSERS = ("chromium", "google-chrome", "chromium-browser", "chrome", "msedge")
# The book begins in a folder of its own.
FRONT = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>lemur_mini</title>
<meta http-equiv="refresh" content="0; url=notebooks/book/index.html">
<a href="notebooks/book/index.html">lemur_mini: the book</a></html>
"""


def main() -> None:
    """Build what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pdf", action="store_true", help="print the PDF, too")
    pdf = parser.parse_args().pdf
    if pdf:
        sphinx("singlehtml", BUILT / "print", "print")
        page = BUILT / "print" / "index.html"  # where its links and images start from
        shutil.move(BUILT / "print" / "notebooks" / "book" / "index.html", page)
        print_pdf(page)
    sphinx("html", BUILT / "site", *["pdf"] * pdf)
    (BUILT / "site" / "index.html").write_text(FRONT, "utf-8")
    if wrong := list(problems(BUILT / "site")):
        raise SystemExit("\n".join(wrong))
    print(f"the book: {BUILT / 'site' / 'index.html'}", *[f"and {PDF}"] * pdf)


def sphinx(builder: str, out: Path, *tags: str) -> None:
    """Run Sphinx; a warning, such as that of a dead link, ends it."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-E"]
    command += ["-b", builder, "-c", HERE, "-d", BUILT / "doctrees", ROOT, out]
    ran = subprocess.run([*command, *(x for tag in tags for x in ("-t", tag))])
    if ran.returncode:
        raise SystemExit(f"Sphinx ended with {ran.returncode}; what it says is above")


def print_pdf(page: Path) -> None:
    """One long page as a PDF with an outline."""
    browser = os.environ.get("BROWSER_FOR_PDF") or next(
        filter(None, map(shutil.which, BROWSERS)), None
    )
    if browser is None:
        names = ", ".join(BROWSERS)
        told = f"no browser to print with: none of {names} is on the path"
        raise SystemExit(f"{told}; install one, or name it in BROWSER_FOR_PDF")
    command = [browser, "--headless", "--disable-gpu", "--no-pdf-header-footer"]
    command += ["--generate-pdf-document-outline", f"--print-to-pdf={PDF}"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--no-sandbox")  # Chromium refuses root with one
    subprocess.run([*command, page.as_uri()], check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
