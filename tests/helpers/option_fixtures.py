"""What the tests of options share."""

import pytest

from gatedcir.errors import UserError
from gatedcir.options.config import Config
from gatedcir.options.parsing import parse


def read(*argv):
    return parse(Config, argv, description="Test.")


def refusal(*argv):
    """The one sentence that says what is wrong with the arguments."""
    with pytest.raises(UserError) as error:
        read(*argv)
    sentence = str(error.value)
    assert "\n" not in sentence and "; " in sentence and sentence.endswith(".")
    return sentence


@pytest.fixture
def yaml_file(tmp_path):
    def write(content):
        path = tmp_path / "options.yaml"
        path.write_text(content, encoding="utf-8")
        return str(path)

    return write
