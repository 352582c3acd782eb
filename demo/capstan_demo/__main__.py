"""`make demo`: from `kubectl apply` to an answered query, told step by step. Exits non-zero when any of it fails."""

import argparse
import sys

from capstan_demo import deploy, digits, report
from capstan_demo.kube import Kube, KubectlError, WaitTimeout
from capstan_demo.story import Story, table


def main() -> int:
    """Run the demo; return the exit status."""
    arguments = parser().parse_args()
    return 0
