// Runs tests, [name, function] each, and prints TAP. A function that gives a text was skipped for that reason. Gives how
// many failed.
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
