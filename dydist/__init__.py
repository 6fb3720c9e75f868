"""dydist: training jobs for dynamic-convolution networks. Importing it imports neither torch nor deepspeed.

- `train`: one process of a run; `session` and `run_strategies` tie its engine to checkpoints and to strategies;
  `run_folder`: whose a folder is; `run_end`: how a run ends, `way_back`: from where one that diverged can go on
- `config`, `config_rules`, `config_reader`, `config_help`: what a run is, what it may be, reading and explaining that;
  `field_types`, `strict_text`: fields' types, and text that people write, read strictly
- `schedules`, `randomness`: learning rate, temperature and every draw, as functions of the step
- `places`: folders and URLs, how they are read and the one way to open them; `named_run`: which run a person means
- `records`, `errors`: what a run says to its monitors, and to people; `display`: text from outside, made safe to show
- `redaction`: keeps secrets out of what is written; `private_files`: files that nobody else could have planted
- `launcher`, `launcher_settings`: which process this is, and what its launcher was told; `process_report`, `stop`:
  between a process and its launcher; `process_end`: the one way out; `machine`: what it runs on
- `compare`, `compare_many`, `compare_plot`, `compare_statistics`: runs beside each other
- `shipped`: files that come with the package; `torchvision_shim`: torchvision where its operators do not load

The packages: `models`, `data`, `engine`, `checkpoint`, `monitor`, `inference`, `jobs`, `bench`, and `cli` over all.
docs/design.md says what knows what.
"""

__version__ = "0.1.0"
