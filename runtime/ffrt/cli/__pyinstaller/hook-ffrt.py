"""What a frozen program needs of ffrt: modules that are loaded at first use, and files that are no code."""

from PyInstaller.utils.hooks import collect_data_files, collect_submodules, copy_metadata

hiddenimports = collect_submodules("ffrt")
datas = collect_data_files("ffrt")  # the demo, and the graph between two runs of a network
for package in ("numpy", "tokenizers", "av"):  # whose versions `ffrt doctor` shows
    datas += copy_metadata(package)
