"""Start the agent: what the init of every sandbox runs, as ``/opt/yurt/app/main.py``.

``python3 -I -S`` looks in its standard library only, so the place of the agent is named here.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    sys.path.append("/opt/yurt/app")
    from yurt_agent.main import main

    sys.exit(main())
