"""Images that Dockerfiles begin with: which bring nothing of anybody's, and in which directory they begin."""

from __future__ import annotations

from gpumend.text.pattern import Pattern

# Images with a system and a language, and no program of anybody's.
PLAIN = Pattern(
    r"(?:docker\.io/)?(?:library/)?(?:scratch|python|debian|ubuntu|alpine|fedora|almalinux|rockylinux|amazonlinux|centos|busybox"
    r"|buildpack-deps)(?:[:@].*)?"
    r"|(?:.*/)?nvidia/cuda(?:[:@].*)?|(?:.*/)?(?:ubi\d*(?:-minimal|-micro)?|astral-sh/uv|distroless/(?:static|base|cc|python3)\S*"
    r"|miniconda3?|mambaforge|micromamba)(?:[:@].*)?"
)
# Images with frameworks besides, and no program of anybody's.
FRAMEWORKS = Pattern(
    r"(?:.*/)?(?:pytorch/pytorch|tensorflow/tensorflow|rocm/(?:pytorch|tensorflow)|huggingface/transformers-[\w-]+"
    r"|nvidia/(?:pytorch|tensorflow|tensorrt|jax|l4t-\w+))(?:[:@].*)?"
)
# The WORKDIR that an image begins with, where it is not /.
WORKDIRS = (
    (Pattern(r"(?s)(?:.*/)?pytorch/pytorch(?:[:@].*)?"), "/workspace"),  # pytorch/pytorch Dockerfile
    (
        Pattern(r"(?s)(?:.*/)?nvidia/(?:pytorch|tensorflow|jax)(?:[:@].*)?"),
        "/workspace",
    ),  # NGC: the container's welcome
)
UNTOLD = "/(WORKDIR of "  # begins the place of a directory that nobody here knows


def workdir(image: str) -> str:
    """The directory in which an image begins; of one that is not known a place of its own, below which paths still agree."""
    known = next((directory for pattern, directory in WORKDIRS if pattern.fullmatch(image)), None)
    return known or (
        "/"
        if PLAIN.fullmatch(image) or FRAMEWORKS.fullmatch(image)
        else f"{UNTOLD}{image.replace('/', '.')})"
    )
