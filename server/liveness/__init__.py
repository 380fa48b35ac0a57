"""What notices that a part of the process has ended or hangs, repairs it, or ends the process."""
