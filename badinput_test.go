package conclave_test

func childProcess() {}
