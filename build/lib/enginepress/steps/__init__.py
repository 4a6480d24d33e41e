"""The steps of a build, one file each: what components, command line and notebook all call.

    recipe ─► resolve ─► download ─► convert ─► build ─► assemble ─► verify ─► publish ─► register ─► promote

A step takes a `Job` and the `Plan` that resolve made. It leaves its output in the workspace, or in a store, under a name that
follows from the plan, and returns a few facts for people. What is there already is never made again, so a run that was
killed anywhere goes on where it stopped. A release that is in the primary store already passes through the building steps.
"""

STEPS = ("resolve", "download", "convert", "build", "assemble", "verify", "publish", "register", "promote")
