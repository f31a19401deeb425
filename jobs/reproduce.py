"""The published experiment, from the released recordings to a table of published against obtained figures.

ray job submit --working-dir . -- python jobs/reproduce.py --ptbxl /data/ptb-xl --out /results --runtime ray --workers 8
"""

from __future__ import annotations

from ecgscale.cli.reproduction import reproduce

if __name__ == "__main__":
    reproduce()
