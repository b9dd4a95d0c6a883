"""The commands of `dse`, one file each. They import only click at their top, so that `dse --help` stays quick."""
