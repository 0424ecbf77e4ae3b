import os
import sys
from pathlib import Path

# Poisoned memory: whatever the engine forgets to write shows up as NaN.
os.environ.setdefault("NEXTSTATE_POISON", "1")
# Threads share even the smallest run: those here are small.
os.environ.setdefault("NEXTSTATE_SPREAD", "1")
sys.path.insert(0, str(Path(__file__).parent))
