/* Runs an ONNX model that holds secateur::Plan, without Python: one input and one output, both of float32.
 *
 *   pip install secateur-ort
 *   build/run model.sparse.onnx $(python -c "import secateur_ort; print(secateur_ort.LIBRARY)") 1 3 32 32
 *
 * prints the first values of what the model makes of ones of shape (1, 3, 32, 32).
 */
#include <inttypes.h>
#include <onnxruntime_c_api.h>
#include <stdio.h>
#include <stdlib.h>

static const OrtApi *api;

/* Ends the program where a call failed. */
static void check(OrtStatus *status) {
    if (status != NULL) {
        fprintf(stderr, "error: %s\n", api->GetErrorMessage(status));
        exit(1);
    }
}

int main(int count, char **arguments) {
    if (count < 4) {
        fprintf(stderr, "usage: %s MODEL.onnx libsecateur_ort.so SIZE...\n", arguments[0]);
        return 2;
    }
    api = OrtGetApiBase()->GetApi(17);
    if (api == NULL) {
        fprintf(stderr, "error: needs ONNX Runtime 1.17 or newer, this is %s\n", OrtGetApiBase()->GetVersionString());
        return 1;
    }

    OrtEnv *env;
    OrtSessionOptions *options;
    OrtSession *session;
    check(api->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "run", &env));
    check(api->CreateSessionOptions(&options));
    /* All that is needed: afterwards sessions with these options know secateur::Plan. */
    check(api->RegisterCustomOpsLibrary_V2(options, arguments[2]));
    check(api->CreateSession(env, arguments[1], options, &session));

    OrtAllocator *allocator;
    char *input, *output;
    check(api->GetAllocatorWithDefaultOptions(&allocator));
    check(api->SessionGetInputName(session, 0, allocator, &input));
    check(api->SessionGetOutputName(session, 0, allocator, &output));

    size_t rank = (size_t)count - 3, size = 1;
    int64_t *shape = calloc(rank, sizeof *shape);
    for (size_t axis = 0; axis < rank; axis++) {
        shape[axis] = strtoll(arguments[3 + axis], NULL, 10);
        size *= (size_t)shape[axis];
    }
    OrtValue *x, *y = NULL;
    float *data;
    check(api->CreateTensorAsOrtValue(allocator, shape, rank, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &x));
    check(api->GetTensorMutableData(x, (void **)&data));
    for (size_t i = 0; i < size; i++) {
        data[i] = 1.0f;
    }

    const char *inputs[] = {input}, *outputs[] = {output};
    check(api->Run(session, NULL, inputs, (const OrtValue *const *)&x, 1, outputs, 1, &y));

    OrtTensorTypeAndShapeInfo *about;
    check(api->GetTensorTypeAndShape(y, &about));
    check(api->GetTensorShapeElementCount(about, &size));
    check(api->GetTensorMutableData(y, (void **)&data));
    printf("%s: %zu values:", output, size);
    for (size_t i = 0; i < size && i < 10; i++) {
        printf(" %g", data[i]);
    }
    printf("\n");

    api->ReleaseTensorTypeAndShapeInfo(about);
    api->ReleaseValue(y);
    api->ReleaseValue(x);
    free(shape);
    check(api->AllocatorFree(allocator, output));
    check(api->AllocatorFree(allocator, input));
    api->ReleaseSession(session);
    api->ReleaseSessionOptions(options);
    api->ReleaseEnv(env);
    return 0;
}
