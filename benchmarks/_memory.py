"""What this process holds in memory, by Linux's account."""


def resident(field):
    """Returns a field of this process's memory in megabytes: `VmRSS` now, `VmHWM` at its peak."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(field))


def forget_peak():
    """Lets the peak begin at what is held now; imports set a high one."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
