"""`make images`: build the images, push them if a registry is given, print their references."""

import argparse
import sys

from capstan_images import NAMES, ImageError, build, engine, publish


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="capstan-images", description="Builds Capstan's container images.")
    result.add_argument("names", nargs="*", metavar="IMAGE", help=f"of {', '.join(NAMES)}; all by default")
    result.add_argument("--gpu", action="store_true", help="the variants with the libraries for NVIDIA GPUs")
    result.add_argument("--registry", help="push them there, as REGISTRY/IMAGE:TAG")
    result.add_argument("--tag", help="default: dev- and a hash of what the image is made of")
    return result


def say(text: str) -> None:
    """Report progress; standard output is for the references."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Return the exit status."""
    commands = parser()
    options = commands.parse_args()
    if unknown := set(options.names) - set(NAMES):
        commands.error(f"no such image: {', '.join(sorted(unknown))}")
    if options.tag and not options.registry:
        commands.error("--tag names what is pushed: give --registry too")
    try:
        program = engine()
        references = build(options.names or NAMES, say, engine=program, gpu=options.gpu)
        if options.registry:
            references = publish(references, program, options.registry, options.tag, say)
    except ImageError as error:
        print(f"capstan-images: {error}", file=sys.stderr)
        return 1
    for reference in references.values():
        print(reference)
    return 0


if __name__ == "__main__":
    sys.exit(main())
