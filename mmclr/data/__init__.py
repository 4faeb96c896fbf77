"""Shards in, batches out.

sources    where bytes come from: patterns, local and remote reads       streams   shards that a command gives
tar        headers of an archive            index    a shard's sidecar   shards    many shards as one sequence
subset     DataComp's subset files          ledger   what was left out   random    draws without a state
order      which sample comes when: a pure function of seed and position
decode     bytes to pixels                  augment  crops and colours   captions  which text, and its edits
store      samples, kept in memory if asked assembly a batch from a position
workers    work ahead, redone when one dies batch    what training gets  settings  the `data:` of a config
loader     the endless stream of batches    plain    evaluation's pass   text      the tokenizer
"""
