"""Starting several processes: presets for accelerate, what cannot work, and the processes themselves.

`presets`, `plan`, `checks` and `start` belong to the command that starts them and import no torch; `host` is the
process in between, accelerate's launcher; `worker` and `group` belong to the processes that train.
"""
