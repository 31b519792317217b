module grantsmith.dev/tests/tools/node/pause

go 1.24
