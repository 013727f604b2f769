"""`pytest notebooks` executes every notebook once; see check.py."""

import check
import make
import pytest


def pytest_collect_file(file_path, parent):
    """Student notebooks of the course, and no other file; none where nbval is asked
    for them (`pytest --nbval-lax notebooks/03_sqdc.ipynb`)."""
    if parent.config.option.nbval or parent.config.option.nbval_lax:
        return None
    names = [f"{name}.ipynb" for name in make.names()]
    if file_path.parent == make.HERE and file_path.name in names:
        return Notebook.from_parent(parent, path=file_path)
    return None


class Notebook(pytest.File):
    """A file with one test, so that `--dist loadscope` shares notebooks out."""

    def collect(self):
        yield Run.from_parent(self, name="runs as stored")


class Run(pytest.Item):
    """A notebook of the course and its solution, executed."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.add_marker("slow")

    def runtest(self):
        found = check.run(self.path.stem)
        if found:
            pytest.fail("\n".join(found), pytrace=False)

    def reportinfo(self):
        return self.path, None, self.path.stem
