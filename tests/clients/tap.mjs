// Runs tests, each given as [name, function], and prints TAP. A test that returns a text was skipped for that reason.
// Returns the number of failed tests.
export const runTests = async tests => {
    console.log(`1..${tests.length}`);
    let failed = 0;
    for (const [i, [name, run]] of tests.entries()) {
        try {
            const skipped = await run();
            console.log(`ok ${i + 1} - ${name}` + (skipped ? ` # SKIP ${skipped}` : ""));
        } catch (error) {
            failed++;
            console.log(`not ok ${i + 1} - ${name}`);
            for (const line of String(error.stack ?? error).split("\n")) console.log(`# ${line}`);
        }
    }
    return failed;
};
