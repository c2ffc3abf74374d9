"""The same echo on other servers, each run by an interpreter of its own: nothing here imports anything of ours."""
