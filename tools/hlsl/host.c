// Compiles HLSL with Microsoft's compilers, FXC (d3dcompiler_47.dll) and DXC (dxcompiler.dll), called as wgpu does on
// Windows, and counts arrays in registers that the machine code indexes by a variable, which drivers may keep in
// memory. Runs under Wine; tools/check_hlsl.sh builds and calls it.
//
//   host.exe LIST RESULTS WORKERS SECONDS
//
// LIST: a line `COMPILER FILE MODEL ENTRY` per job, with COMPILER fxc or dxc. RESULTS: a line per job, in any order,
// `COMPILER OUTCOME MILLISECONDS ARRAYS INDEXED FILE`. OUTCOME is accepted, refused, or late after SECONDS; ARRAYS
// counts arrays in registers, INDEXED the places that index one by a variable. Messages of compilers go to stderr. Exit
// code 0 if all are accepted, 1 if not, 2 if the compilers can't be called or fail the self-test.

#define COBJMACROS
#include <windows.h>
#include <d3dcompiler.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The used declarations of dxcapi.h, which mingw lacks, with a result's methods up to the last used one.
typedef struct { const void *Ptr; SIZE_T Size; UINT Encoding; } DxcBuffer;
enum { DXC_CP_UTF8 = 65001, DXC_OUT_OBJECT = 1, DXC_OUT_ERRORS = 2, DXC_OUT_DISASSEMBLY = 5 };

typedef struct Result Result;
typedef struct {
    HRESULT(WINAPI *QueryInterface)(Result *, REFIID, void **);
    ULONG(WINAPI *AddRef)(Result *);
    ULONG(WINAPI *Release)(Result *);
    HRESULT(WINAPI *GetStatus)(Result *, HRESULT *);
    HRESULT(WINAPI *GetResult)(Result *, ID3DBlob **);
    HRESULT(WINAPI *GetErrorBuffer)(Result *, ID3DBlob **);
    BOOL(WINAPI *HasOutput)(Result *, int);
    HRESULT(WINAPI *GetOutput)(Result *, int, REFIID, void **, IUnknown **);
} ResultMethods;
struct Result { const ResultMethods *methods; };

typedef struct Compiler Compiler;
typedef struct {
    HRESULT(WINAPI *QueryInterface)(Compiler *, REFIID, void **);
    ULONG(WINAPI *AddRef)(Compiler *);
    ULONG(WINAPI *Release)(Compiler *);
    HRESULT(WINAPI *Compile)(Compiler *, const DxcBuffer *, LPCWSTR *, UINT, IUnknown *, REFIID, void **);
    HRESULT(WINAPI *Disassemble)(Compiler *, const DxcBuffer *, REFIID, void **);
} CompilerMethods;
struct Compiler { const CompilerMethods *methods; };

static const GUID CLSID_COMPILER = {0x73e22d93, 0xe6ce, 0x47f3, {0xb5, 0xbf, 0xf0, 0x66, 0x4f, 0x39, 0xc1, 0xb0}};
static const GUID IID_COMPILER_3 = {0x228b4687, 0x5a6a, 0x4730, {0x90, 0x0c, 0x97, 0x02, 0xb2, 0x20, 0x3f, 0x54}};
static const GUID IID_RESULT = {0x58346cda, 0xdde7, 0x4497, {0x94, 0x61, 0x6f, 0x87, 0xaf, 0x5e, 0x06, 0x59}};
// IDxcBlob: ID3DBlob under another name.
static const GUID IID_BLOB = {0x8ba5fb08, 0x5195, 0x40e2, {0xac, 0x58, 0x0d, 0x98, 0x9c, 0x3a, 0x01, 0x02}};

typedef HRESULT(WINAPI *CreateInstance)(REFCLSID, REFIID, void **);

static pD3DCompile fxc_compile;
static pD3DDisassemble fxc_disassemble;
static CreateInstance dxc_create;

enum { NAME = 400 };

typedef struct {
    char compiler[8], file[NAME], model[16], entry[64];
} Job;

typedef struct {
    bool accepted;
    unsigned arrays, indexed;
    // The compiler's message, which the caller frees, or null.
    char *message;
} Outcome;

static void fail(const char *what) {
    fprintf(stderr, "error: %s\n", what);
    exit(2);
}

static void *allocate(size_t size) {
    void *found = calloc(1, size);
    if (!found) fail("no memory");
    return found;
}

// A blob's bytes with a terminating zero, which the caller frees.
static char *text_of(ID3DBlob *blob) {
    size_t size = ID3D10Blob_GetBufferSize(blob);
    char *text = allocate(size + 1);
    memcpy(text, ID3D10Blob_GetBufferPointer(blob), size);
    return text;
}

// Counts in FXC's assembly: `dcl_indexableTemp x0[16], 4` and then `x0[r1.x + 4]`.
static void scan_dxbc(const char *text, Outcome *outcome) {
    for (const char *at = text; (at = strstr(at, "dcl_indexableTemp")); at++) outcome->arrays++;
    for (const char *at = text; (at = strchr(at, 'x')); at++) {
        const char *digits = at + 1;
        size_t count = strspn(digits, "0123456789");
        bool starts = at == text || strchr(" ,-|", at[-1]);
        outcome->indexed += starts && count > 0 && digits[count] == '[' && digits[count + 1] == 'r';
    }
}

// Counts in DXC's: `%1 = alloca [16 x float]` and then `getelementptr [16 x float], [16 x float]* %1, i32 0, i32 %2`. Memory
// of a workgroup is `@name`.
static void scan_dxil(const char *text, Outcome *outcome) {
    for (const char *at = text; (at = strstr(at, "= alloca [")); at++) outcome->arrays++;
    for (const char *at = text; (at = strstr(at, "getelementptr ")); at++) {
        size_t length = strcspn(at, "\n");
        const char *base = strstr(at, "]* %");
        if (!base || base >= at + length) continue;
        for (const char *index = base + 4; (index = strstr(index, ", i32 %")) && index < at + length; index++) {
            outcome->indexed++;
        }
    }
}

static Outcome with_fxc(const Job *job, const char *source) {
    Outcome outcome = {0};
    ID3DBlob *code = NULL, *message = NULL;
    HRESULT status = fxc_compile(source, strlen(source), job->file, NULL, NULL, job->entry, job->model,
                                 D3DCOMPILE_ENABLE_STRICTNESS, 0, &code, &message);
    outcome.accepted = SUCCEEDED(status) && code;
    if (message) {
        // Warnings about accepted shaders are ignored.
        if (!outcome.accepted) outcome.message = text_of(message);
        ID3D10Blob_Release(message);
    }
    if (!outcome.accepted) return outcome;
    ID3DBlob *assembly = NULL;
    status = fxc_disassemble(ID3D10Blob_GetBufferPointer(code), ID3D10Blob_GetBufferSize(code), 0, NULL, &assembly);
    if (FAILED(status)) fail("FXC can't disassemble its own code");
    char *text = text_of(assembly);
    scan_dxbc(text, &outcome);
    free(text);
    ID3D10Blob_Release(assembly);
    ID3D10Blob_Release(code);
    return outcome;
}

static LPCWSTR wide(const char *text, WCHAR *into) {
    if (!MultiByteToWideChar(CP_UTF8, 0, text, -1, into, NAME)) fail("a name is too long");
    return into;
}

static Outcome with_dxc(Compiler *compiler, const Job *job, const char *source) {
    Outcome outcome = {0};
    WCHAR file[NAME], entry[NAME], model[NAME];
    LPCWSTR arguments[] = {
        wide(job->file, file), L"-E", wide(job->entry, entry), L"-T", wide(job->model, model),
        L"-HV", L"2018", L"-no-warnings", L"-Ges", L"-enable-16bit-types",
    };
    // 16-bit types need shader model 6.2; wgpu requests them if the adapter has f16.
    UINT count = sizeof arguments / sizeof *arguments - (strcmp(job->model, "cs_6_2") < 0);
    DxcBuffer buffer = {source, strlen(source), DXC_CP_UTF8};
    Result *result = NULL;
    HRESULT status = compiler->methods->Compile(compiler, &buffer, arguments, count, NULL, &IID_RESULT, (void **)&result);
    if (FAILED(status) || FAILED(result->methods->GetStatus(result, &status))) fail("DXC can't be called");
    outcome.accepted = SUCCEEDED(status);
    ID3DBlob *blob = NULL;
    if (!outcome.accepted) {
        if (SUCCEEDED(result->methods->GetOutput(result, DXC_OUT_ERRORS, &IID_BLOB, (void **)&blob, NULL)) && blob) {
            outcome.message = text_of(blob);
            ID3D10Blob_Release(blob);
        }
        result->methods->Release(result);
        return outcome;
    }
    Result *assembly = NULL;
    ID3DBlob *lines = NULL;
    if (FAILED(result->methods->GetOutput(result, DXC_OUT_OBJECT, &IID_BLOB, (void **)&blob, NULL))) fail("DXC gives no code");
    DxcBuffer code = {ID3D10Blob_GetBufferPointer(blob), ID3D10Blob_GetBufferSize(blob), 0};
    status = compiler->methods->Disassemble(compiler, &code, &IID_RESULT, (void **)&assembly);
    if (SUCCEEDED(status)) {
        status = assembly->methods->GetOutput(assembly, DXC_OUT_DISASSEMBLY, &IID_BLOB, (void **)&lines, NULL);
    }
    if (FAILED(status)) fail("DXC can't disassemble its own code");
    char *text = text_of(lines);
    scan_dxil(text, &outcome);
    free(text);
    ID3D10Blob_Release(lines);
    assembly->methods->Release(assembly);
    ID3D10Blob_Release(blob);
    result->methods->Release(result);
    return outcome;
}

static Outcome compile(Compiler *dxc, const Job *job, const char *source) {
    return strcmp(job->compiler, "fxc") == 0 ? with_fxc(job, source) : with_dxc(dxc, job, source);
}

static Compiler *new_dxc(void) {
    Compiler *found = NULL;
    if (FAILED(dxc_create(&CLSID_COMPILER, &IID_COMPILER_3, (void **)&found))) fail("DXC gives no compiler");
    return found;
}

// Both compilers must refuse the first, naming line 3, and both counts must find the arrays of the others.
static const char WRONG[] = "RWByteAddressBuffer to : register(u0);\n[numthreads(64, 1, 1)] void main(uint3 id : SV_DispatchThreadID) {\n"
                            "    float4 lane = id.x + nothing;\n    to.Store(id.x * 4, asuint(lane.x));\n}\n";
static const char INDEXED[] = "RWByteAddressBuffer to : register(u0);\n[numthreads(64, 1, 1)] void main(uint3 id : SV_DispatchThreadID) {\n"
                              "    float sums[16] = (float[16])0;\n    [loop] for (uint i = 0; i < id.x; i++) sums[i * id.y % 16] += asfloat(to.Load(i * 4));\n"
                              "    to.Store(id.x * 4, asuint(sums[id.z % 16]));\n}\n";
static const char IN_REGISTERS[] = "RWByteAddressBuffer to : register(u0);\n[numthreads(64, 1, 1)] void main(uint3 id : SV_DispatchThreadID) {\n"
                                   "    float sums[4] = (float[4])0;\n    [unroll] for (uint i = 0; i < 4; i++) sums[i] += asfloat(to.Load(i * 4));\n"
                                   "    to.Store(id.x * 4, asuint(sums[0] + sums[1] * sums[2] + sums[3]));\n}\n";

static void self_test(void) {
    Compiler *dxc = new_dxc();
    const Job jobs[] = {{"fxc", "self_test.hlsl", "cs_5_1", "main"}, {"dxc", "self_test.hlsl", "cs_6_0", "main"}};
    for (int i = 0; i < 2; i++) {
        Outcome wrong = compile(dxc, &jobs[i], WRONG);
        const char *line = i == 0 ? "(3," : ":3:";
        if (wrong.accepted || !wrong.message || !strstr(wrong.message, line)) {
            fprintf(stderr, "self-test: %s: an invalid shader isn't refused with its line: %s\n", jobs[i].compiler,
                    wrong.message ? wrong.message : "no message");
            exit(2);
        }
        free(wrong.message);
        Outcome indexed = compile(dxc, &jobs[i], INDEXED), kept = compile(dxc, &jobs[i], IN_REGISTERS);
        if (!indexed.accepted || !indexed.arrays || !indexed.indexed || !kept.accepted || kept.arrays || kept.indexed) {
            fprintf(stderr, "self-test: %s: %u arrays indexed at %u places where there are some, %u and %u where there are none\n",
                    jobs[i].compiler, indexed.arrays, indexed.indexed, kept.arrays, kept.indexed);
            exit(2);
        }
    }
    dxc->methods->Release(dxc);
}

static Job *jobs;
static LONG job_count, next_job;
static FILE *results;
static bool all_accepted = true;
static CRITICAL_SECTION writing;

// A thread that compiles jobs. It is abandoned if a job takes too long, since a compiler can't be stopped. `job` is -1
// between jobs.
typedef struct {
    HANDLE thread;
    LONG job;
    ULONGLONG since;
    bool given_up;
} Worker;

// Called with `writing` held.
static void report(const Job *job, const char *outcome, ULONGLONG since, Outcome found) {
    fprintf(results, "%s %s %llu %u %u %s\n", job->compiler, outcome, GetTickCount64() - since, found.arrays, found.indexed, job->file);
    fflush(results);
    if (found.accepted) return;
    all_accepted = false;
    fprintf(stderr, "%s: %s: %s\n%s", job->file, job->compiler, outcome, found.message ? found.message : "");
    fflush(stderr);
}

static char *read_text(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) {
        fprintf(stderr, "error: %s can't be read\n", path);
        exit(2);
    }
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    char *text = allocate((size_t)size + 1);
    if (fread(text, 1, (size_t)size, file) != (size_t)size) fail("a file got shorter while it was read");
    fclose(file);
    return text;
}

static DWORD WINAPI work(void *argument) {
    Worker *worker = argument;
    Compiler *dxc = new_dxc();
    for (;;) {
        LONG index = InterlockedIncrement(&next_job) - 1;
        if (index >= job_count) return 0;
        char *source = read_text(jobs[index].file);
        EnterCriticalSection(&writing);
        worker->job = index;
        worker->since = GetTickCount64();
        LeaveCriticalSection(&writing);
        Outcome found = compile(dxc, &jobs[index], source);
        free(source);
        EnterCriticalSection(&writing);
        bool given_up = worker->given_up;
        if (!given_up) report(&jobs[index], found.accepted ? "accepted" : "refused", worker->since, found);
        worker->job = -1;
        LeaveCriticalSection(&writing);
        free(found.message);
        if (given_up) return 0;
    }
}

static Worker *start(void) {
    Worker *worker = allocate(sizeof *worker);
    worker->job = -1;
    // Both compilers recurse deeply.
    worker->thread = CreateThread(NULL, 64 << 20, work, worker, STACK_SIZE_PARAM_IS_A_RESERVATION, NULL);
    if (!worker->thread) fail("no thread");
    return worker;
}

static void read_list(const char *path) {
    FILE *list = fopen(path, "r");
    if (!list) fail("the list can't be read");
    LONG room = 0;
    Job job;
    int read;
    while ((read = fscanf(list, "%7s %399s %15s %63s", job.compiler, job.file, job.model, job.entry)) == 4) {
        if (job_count == room) {
            room = room ? 2 * room : 1024;
            jobs = realloc(jobs, (size_t)room * sizeof *jobs);
            if (!jobs) fail("no memory");
        }
        jobs[job_count++] = job;
    }
    if (read != EOF) fail("a line of the list isn't `COMPILER FILE MODEL ENTRY`");
    fclose(list);
}

int main(int count, char **words) {
    if (count != 5) fail("usage: host.exe LIST RESULTS WORKERS SECONDS");
    read_list(words[1]);
    results = fopen(words[2], "wb");
    if (!results) fail("the results can't be written");
    int workers = atoi(words[3]);
    ULONGLONG limit = (ULONGLONG)atoi(words[4]) * 1000;

    HMODULE fxc = LoadLibraryA("d3dcompiler_47.dll"), dxc = LoadLibraryA("dxcompiler.dll");
    if (!fxc || !dxc) fail("d3dcompiler_47.dll or dxcompiler.dll isn't beside the host, or lacks zlib1.dll");
    fxc_compile = (pD3DCompile)(void (*)(void))GetProcAddress(fxc, "D3DCompile");
    fxc_disassemble = (pD3DDisassemble)(void (*)(void))GetProcAddress(fxc, "D3DDisassemble");
    dxc_create = (CreateInstance)(void (*)(void))GetProcAddress(dxc, "DxcCreateInstance");
    if (!fxc_compile || !fxc_disassemble || !dxc_create) fail("a function is missing in a compiler");
    InitializeCriticalSection(&writing);
    self_test();

    Worker **all = allocate((size_t)workers * sizeof *all);
    for (int i = 0; i < workers; i++) all[i] = start();
    for (int busy = workers; busy > 0;) {
        Sleep(20);
        busy = 0;
        for (int i = 0; i < workers; i++) {
            Worker *worker = all[i];
            EnterCriticalSection(&writing);
            if (worker->job >= 0 && GetTickCount64() - worker->since > limit) {
                worker->given_up = true;
                report(&jobs[worker->job], "late", worker->since, (Outcome){0});
                all[i] = start();
            }
            LeaveCriticalSection(&writing);
            busy += WaitForSingleObject(all[i]->thread, 0) == WAIT_TIMEOUT;
        }
    }
    fclose(results);
    // Not exit, since abandoned threads may still compile.
    TerminateProcess(GetCurrentProcess(), all_accepted ? 0 : 1);
}
