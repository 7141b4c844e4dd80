"""Running trials: the decision loop, its workers, and what the user sees meanwhile.

Read `sweep` first, which calls the others in this order:
  setup        everything a sweep needs, checked before anything runs (factories, settings, slots,
               folders)
  new_study    where `on_change=new_study` goes instead
  session      joins the study, and records what this session runs (provenance, own_code)
  driver       the decision loop: asks `scheduler` what to do about every event
  scheduler    events in, actions out; pure. `events` logs and replays them
  timeouts     how long a trial may run, or be silent
  workers      one process per slot, from `fork_server`; each runs `worker`, and talks by `channel`;
               `exit_handlers`: the task's, run where a worker is let go. `start_method` says
               whether they are forked or, by `spawn`, fresh interpreters; `foreground` is the one
               of a sweep without workers (n_jobs=0)
  job          a trial as a Hydra job (job_files, outcomes), for whose child processes `children`
               listens; `lanes` trains many in one process
  objective    which number of a completed trial counts
  progress     what the user sees meanwhile
  conclusion   ranking, results, report (`reports`), what to do next
  returns      the trials as Hydra's callers know them
"""
