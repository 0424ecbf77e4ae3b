import os
import sys
from pathlib import Path

# Threads share even the smallest run: those here are small.
os.environ.setdefault("NEXTSTATE_SPREAD", "1")
sys.path.insert(0, str(Path(__file__).parent))
