import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest_helpers import MINIATURES
